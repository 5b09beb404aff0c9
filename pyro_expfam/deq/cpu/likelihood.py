"""Log likelihoods of many rows at given latents with their gradients, compiled by Numba.

The features of a row are in the lanes of the processor's vectors. Nothing of size rows x features
is written.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import Activation, activation_of
from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.cpu_table import coefficients, entries
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT, power_of_two
from pyro_expfam.deq.cpu.separate_moments import EXPONENTIAL, KINDS
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem

ROWS_AT_ONCE = 16
"""Rows whose linear predictors are in the fastest cache. Short loops over the features of one row
would cost more than the work in them."""

FEATURES_AT_ONCE = 64
"""Features whose factors between 1 and 2 are multiplied before one logarithm."""

LARGE = 64
"""Counts beyond this, and totals of counts, are computed with in double precision. The products of
counts with predictors, the rates and the base measures nearly cancel, and so do the residuals."""

ROUNDINGS = 16
"""Gradients in the latents that cancel to so many roundings are zero."""


class RowLikelihoods(NamedTuple):
    """The log likelihoods of rows.

    Attributes:
        value: of each row, ``(N,)``; in double precision where single precision lacks the digits.
        prior: the log densities of the latents under their prior about zero, ``(N,)``.
        W: the gradient of their sum in the loading at held latents, ``(d, l)``.
        b: the gradient of their sum in the intercept, ``(d,)``.
    """

    value: Tensor
    prior: Tensor
    W: Tensor
    b: Tensor


def has_likelihood(problem: LatentProblem) -> bool:
    """Whether the kernel has the law of a problem: bits, counts of one total, and counts."""
    activation = activation_of(problem.family)
    return (
        activation is not None
        and activation.name in ("exponential", "logistic")
        and activation.shift == 0
        and not isinstance(activation.size, Tensor)
        and problem.weights is None
    )


def values(problem: LatentProblem, z: Tensor) -> RowLikelihoods:
    """The log likelihoods of rows at latents ``z`` ``(N, l)``."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = coefficients(problem)
    found = likelihoods_by_arrays(
        activation,
        np.ascontiguousarray(W.T),
        b,
        problem.statistic.contiguous().numpy(),
        entries(problem.offset, problem.b),
        z.contiguous().numpy(),
        problem.precision.item(),
        spans(len(z), problem.num_features, ENTRIES_TO_SOLVE),
    )
    return with_base_measures(problem, found)


def with_base_measures(problem: LatentProblem, found: RowLikelihoods) -> RowLikelihoods:
    """Log likelihoods from those without base measures."""
    activation = activation_of(problem.family)
    assert activation is not None
    if activation.name == "logistic" and activation.size == 1:
        # The base measure of bits is one.
        return found
    # The base measures nearly cancel with the likelihoods, which may be in double precision.
    y = problem.y.to(found.value.dtype)
    return found._replace(value=found.value + problem.family.log_base_measure(y).sum(-1))


def has_large(statistic: np.ndarray) -> bool:
    """Whether there are counts that are computed with in double precision."""
    return bool(statistic.max(initial=0) > LARGE)


def likelihoods_by_arrays(
    activation: Activation,
    loading: np.ndarray,
    b: np.ndarray,
    statistic: np.ndarray,
    offset: np.ndarray,
    z: np.ndarray,
    precision: float,
    rows: list[tuple[int, int]],
) -> RowLikelihoods:
    """The log likelihoods of rows without base measures.

    Args:
        activation: of the family.
        loading: the loading, transposed, ``(l, d)``.
        b: the intercept.
        statistic: the sufficient statistics, ``(N, d)``.
        offset: the offset, or no rows.
        z: latents, ``(N, l)``.
        precision: of the latents.
        rows: spans of rows, one for each thread.
    """
    if activation.size > LARGE or (activation.name == "exponential" and has_large(statistic)):
        loading, b, z = (x.astype(np.float64, copy=False) for x in (loading, b, z))
    number = b.dtype.type
    out = np.empty((2, len(z)), b.dtype)
    peak = 0.5 * len(loading) * math.log(precision / (2 * math.pi))
    work = partial(
        _sum_over_rows,
        KINDS[activation.name],
        number(activation.size),
        number(LARGEST_EXPONENT[number]),
        loading,
        b,
        statistic,
        offset,
        z,
        (number(-0.5 * precision), number(peak)),
        out,
    )
    parts = in_threads(work, rows)
    total = parts[0] if len(parts) == 1 else np.sum(parts, 0)
    arrays = (*out, total[:-1].T.astype(b.dtype, order="C"), total[-1].astype(b.dtype))
    return RowLikelihoods(*map(torch.from_numpy, arrays))


def cancel(z: Tensor, of_root: Tensor, of_likelihood: Tensor, precision: float) -> bool:
    """Whether gradients of the root are minus what reaches it through the log likelihoods.

    Args:
        z: the root, ``(N, l)``.
        of_root: its gradient.
        of_likelihood: the gradient of the log likelihoods, ``(N,)``, which must be one number.
        precision: of the latents.
    """
    number = of_root.numpy().dtype.type
    factor = float(of_likelihood[0])
    if of_likelihood.stride(0) and not bool((of_likelihood == factor).all()):
        return False
    rounding = number(ROUNDINGS * torch.finfo(z.dtype).eps)
    arrays = (x.contiguous().numpy() for x in (z, of_root))
    found: bool = _are_opposite(*arrays, number(factor * precision), rounding)
    return found


@compiled_once
def _are_opposite(z, of_root, factor, rounding):
    """Whether gradients are minus the latents times a factor, to rounding."""
    for s in range(z.shape[0]):
        for k in range(z.shape[1]):
            other = factor * z[s, k]
            if not abs(of_root[s, k] + other) <= rounding * abs(other):
                return False
    return True


@compiled_once
def _sum_over_rows(kind, size, largest, W, b, statistic, offset, z, of_prior, out, begin, end):
    """Log likelihoods of the rows from ``begin`` to ``end``; their gradients, ``(l + 1, d)``.

    Base measures are left out. The numbers of the prior are a factor of squared lengths, and what
    is added to them. Log likelihoods and log prior densities go into the rows of ``out``.
    """
    (factor, peak), value, prior = of_prior, out[0], out[1]
    latent_dim, num_features = W.shape
    memory = np.empty((3, ROWS_AT_ONCE, num_features), b.dtype)
    eta, rate, residual = memory[0], memory[1], memory[2]
    flat_eta, flat_rate = eta.ravel(), rate.ravel()
    part = np.zeros((latent_dim + 1, num_features), b.dtype)
    total = np.zeros((latent_dim + 1, num_features))
    for first in range(begin, end, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, end - first)
        _find_predictors(W, b, offset, z, first, count, eta)
        for s in range(first, first + count):
            prior[s] = peak
            for k in range(latent_dim):
                prior[s] += factor * z[s, k] * z[s, k]
        part[:] = 0
        if kind == EXPONENTIAL:
            find_rates(size, largest, flat_eta, flat_rate, count * num_features)
            _of_counts(statistic, first, count, eta, rate, residual, value)
        else:
            find_odds(flat_eta, flat_rate, count * num_features)
            _of_bits(size, statistic, first, count, eta, rate, residual, value)
        _add_products(residual, z, first, count, part)
        for k in range(latent_dim + 1):
            for i in range(num_features):
                total[k, i] += part[k, i]
    return total


@numba.njit(**IN_ANY_ORDER)
def _find_predictors(W, b, offset, z, first, count, eta):
    """The linear predictors of a block of rows."""
    whole_registers()
    for r in range(count):
        s = first + r
        first_latent = z[s, 0]
        if len(W) == 1:
            for i in range(len(b)):
                eta[r, i] = b[i] + first_latent * W[0, i]
        else:
            second_latent = z[s, 1]
            for i in range(len(b)):
                eta[r, i] = b[i] + first_latent * W[0, i] + second_latent * W[1, i]
        for k in range(2, len(W)):
            latent = z[s, k]
            for i in range(len(b)):
                eta[r, i] += latent * W[k, i]
        if len(offset):
            row = s if len(offset) > 1 else 0
            if offset.shape[1] > 1:
                for i in range(len(b)):
                    eta[r, i] += offset[row, i]
            else:
                for i in range(len(b)):
                    eta[r, i] += offset[row, 0]


@numba.njit(**OPTIONS)
def find_rates(size, largest, eta, rate, count):
    """The rates of counts, of which there are ``count``."""
    whole_registers()
    unit = eta.dtype.type(1 / math.log(2))
    for i in range(count):
        exponent = unit * eta[i]
        found = size * power_of_two(exponent)
        rate[i] = found if exponent <= largest else exponent * np.inf


@numba.njit(**OPTIONS)
def find_odds(eta, odds, count):
    """The odds against the likelier outcome of bits, of which there are ``count``."""
    whole_registers()
    unit = eta.dtype.type(-1 / math.log(2))
    for i in range(count):
        odds[i] = power_of_two(unit * abs(eta[i]))


@numba.njit(**IN_ANY_ORDER)
def _add_products(residual, z, first, count, total):
    """Adds the gradients of a block of rows."""
    whole_registers()
    latent_dim, num_features = len(total) - 1, total.shape[1]
    for r in range(count):
        for k in range(0, latent_dim - 1, 2):
            one, other = z[first + r, k], z[first + r, k + 1]
            for i in range(num_features):
                total[k, i] += one * residual[r, i]
                total[k + 1, i] += other * residual[r, i]
        if latent_dim % 2:
            one = z[first + r, latent_dim - 1]
            for i in range(num_features):
                total[latent_dim - 1, i] += one * residual[r, i]
        for i in range(num_features):
            total[latent_dim, i] += residual[r, i]


@numba.njit(**IN_ANY_ORDER)
def _of_counts(statistic, first, count, eta, rate, residual, value):
    """The log likelihoods of a block of rows of counts, and the residuals."""
    whole_registers()
    for r in range(count):
        loss = 0.0
        for begin in range(0, eta.shape[1], FEATURES_AT_ONCE):
            end = min(begin + FEATURES_AT_ONCE, eta.shape[1])
            # Indices that begin at zero need no check of their sign, which would rule out the
            # vectors of the processor.
            x, y, mean = eta[r, begin:end], statistic[first + r, begin:end], rate[r, begin:end]
            rest, part = residual[r, begin:end], eta.dtype.type(0)
            for i in range(len(x)):
                rest[i] = y[i] - mean[i]
                part += mean[i] - y[i] * x[i]
            loss += part
        value[first + r] = -loss


@numba.njit(**IN_ANY_ORDER)
def _of_bits(size, statistic, first, count, eta, odds, residual, value):
    r"""The log likelihoods of a block of rows of bits, and the residuals.

    The partition is the larger of 0 and the predictor, plus the logarithm of one plus the odds
    against the likelier outcome.
    """
    whole_registers()
    one, zero = eta.dtype.type(1), eta.dtype.type(0)
    for r in range(count):
        loss = 0.0
        for begin in range(0, eta.shape[1], FEATURES_AT_ONCE):
            end = min(begin + FEATURES_AT_ONCE, eta.shape[1])
            x, y, against = eta[r, begin:end], statistic[first + r, begin:end], odds[r, begin:end]
            rest, part, product = residual[r, begin:end], zero, one
            for i in range(len(x)):
                likelier = one / (one + against[i])
                rest[i] = y[i] - size * (likelier if x[i] > zero else against[i] * likelier)
                part += size * (x[i] if x[i] > zero else zero) - y[i] * x[i]
                product *= one + against[i]
            loss += part + size * math.log(product)
        value[first + r] = -loss
