"""The arrays that the kernels read, per row and shared by all rows."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import Activation, activation_of
from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, compiled_once
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.separate_moments import KINDS, SeparateLaw
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family

SMALLEST_RATE = 1e-18
"""The rate where all loadings are zero; its square is still a normal number of float32."""


class CpuDesign(NamedTuple):
    """Arrays that all rows of a table share.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the loading times ``unit``.
        loading: the loading transposed, with latents padded to an even number by zeros.
        exponent_loading: the loading times ``unit``, which makes natural parameters exponents of
            two: the rate, or the odds against one of two outcomes, is two to their power.
        exponent_intercept: the intercept times ``unit``.
        unit: that factor.
        law: the activation.
        mean_scale: the factor of means, ``(d,)``.
        variance_scale: the factor of variances, which multiplies the product of the two
            probabilities, ``(d,)``.
        exponential: whether the activation is exponential rather than logistic.
        precision: precision of the latents.
        self_concordance: the most by which a log variance changes with the natural parameter.
        rate: the most by which a log variance changes along a unit vector of latents.
    """

    rows: Any
    exponent_rows: Any
    loading: Any
    exponent_loading: Any
    exponent_intercept: Any
    unit: Any
    law: Any
    mean_scale: Any
    variance_scale: Any
    exponential: bool
    precision: Any
    self_concordance: Any
    rate: Any


class CpuTable(NamedTuple):
    """Rows of a problem.

    An offset or weights that all rows (or all features) share have one row (or column). Without an
    offset or weights the array has no rows.

    Attributes:
        design: what is the same for all rows.
        observed: sufficient statistics, or the observations of a family without them, ``(N, d)``.
        offset: known part of the natural parameters, ``(N, d)``, ``(N, 1)`` or ``(1, d)``.
        weights: entry weights, likewise.
    """

    design: Any
    observed: Any
    offset: Any
    weights: Any


def separate_design(problem: LatentProblem) -> CpuDesign:
    """The design of a problem whose entries have one linear predictor each."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = coefficients(problem)
    numbers = numbers_of_design(problem.family, activation, b.dtype)
    arrays = arrays_of_design(W, b, size_by_feature(activation, b), *numbers[:3])
    return design_of(W, arrays, numbers, activation, b.dtype.type(problem.precision.item()))


class DesignNumbers(NamedTuple):
    """What kernels read of an activation: unit, slope, self-concordance and law."""

    unit: Any
    slope: Any
    self_concordance: Any
    law: SeparateLaw


def numbers_of_design(family: Family, activation: Activation, dtype: np.dtype) -> DesignNumbers:
    """The numbers of a design in a format."""
    assert family.self_concordance is not None
    # Only the mean of one size has a shift.
    size = 1.0 if isinstance(activation.size, Tensor) else float(activation.size)
    centre = activation.shift / size
    return _numbers(activation.name, activation.slope, centre, family.self_concordance, dtype)


@lru_cache(maxsize=64)
def _numbers(
    name: str, slope: float, centre: float, self_concordance: float, dtype: np.dtype
) -> DesignNumbers:
    number = dtype.type
    # These are the odds against: they fall with the natural parameter.
    unit = (-slope if name == "logistic" else 1.0) / math.log(2)
    if name == "identity":
        unit = 1.0
    law = SeparateLaw(KINDS[name], number(LARGEST_EXPONENT[number]), number(centre))
    return DesignNumbers(number(unit), number(slope), number(self_concordance), law)


def design_of(
    W: np.ndarray, arrays: Any, numbers: DesignNumbers, activation: Activation, precision: Any
) -> CpuDesign:
    """The design of a loading, of the arrays and numbers that kernels read, and a precision."""
    exponent_rows, loading, exponent_loading, exponent_intercept, scales, rate = arrays
    mean_scale, variance_scale = scales
    return CpuDesign(
        W,
        exponent_rows,
        loading,
        exponent_loading,
        exponent_intercept,
        numbers.unit,
        numbers.law,
        mean_scale,
        variance_scale,
        activation.name == "exponential",
        precision,
        numbers.self_concordance,
        W.dtype.type(rate),
    )


def in_format(numbers: Any, number: Any) -> Any:
    """A named tuple with its floats, and those of tuples in it, as numbers of a format.

    Compiled functions return them as Python's, with which others would compute in float64.
    """
    found = [
        number(x) if type(x) is float else in_format(x, number) if isinstance(x, tuple) else x
        for x in numbers
    ]
    return numbers._make(found)


def size_by_feature(activation: Activation, b: np.ndarray) -> np.ndarray:
    """The size of an activation for each feature, in the dtype of the intercept ``(d,)``."""
    if isinstance(activation.size, Tensor):
        # One size for all features may have more dimensions than the features.
        size = activation.size.numpy().astype(b.dtype, copy=False).reshape(-1)
        # A copy: kernels would be compiled once more for an array that may only be read.
        return np.array(np.broadcast_to(size, b.shape))
    return _repeated(activation.size, len(b), b.dtype)


@lru_cache(maxsize=16)
def _repeated(number: float, count: int, dtype: np.dtype) -> np.ndarray:
    """So many times a number, to read only."""
    return np.full(count, number, dtype)


def coefficients(problem: LatentProblem) -> tuple[np.ndarray, np.ndarray]:
    """The loading ``(d, l)`` and the intercept ``(d,)`` of a problem as arrays."""
    return problem.map.loading.contiguous().numpy(), problem.b.contiguous().numpy()


@compiled_once
def arrays_of_design(W, b, size, unit, slope, self_concordance):
    """The arrays of a design, and its rate."""
    num_features, latent_dim = W.shape
    loading = np.zeros((latent_dim + latent_dim % 2, num_features), W.dtype)
    exponent_loading = np.zeros_like(loading)
    exponent_intercept, mean_scale, variance_scale = np.empty((3, num_features), W.dtype)
    largest = W.dtype.type(0)
    for i in range(num_features):
        exponent_intercept[i] = unit * b[i]
        mean_scale[i], variance_scale[i] = size[i], size[i] * slope
        square = W.dtype.type(0)
        for k in range(latent_dim):
            w = W[i, k]
            loading[k, i], exponent_loading[k, i] = w, unit * w
            square += w * w
        largest = max(largest, square)
    rate = W.dtype.type(max(self_concordance * math.sqrt(largest), SMALLEST_RATE))
    scales = mean_scale, variance_scale
    return unit * W, loading, exponent_loading, exponent_intercept, scales, rate


_NOTHING: dict[torch.dtype, np.ndarray] = {
    torch.float32: np.empty((0, 1), np.float32),
    torch.float64: np.empty((0, 1)),
}
"""Entries that are not there."""


def entries(entries: Tensor | None, like: Tensor) -> np.ndarray:
    """Entries of a problem as an array, without rows if there are none."""
    found = _NOTHING[like.dtype] if entries is None else entries.contiguous().numpy()
    return found


def statistic_loading(table: CpuTable, latent_dim: int) -> np.ndarray:
    """The sufficient statistics of rows times the loading, ``T(y) W``, ``(N, l)``."""
    statistic, weights = table.observed, table.weights
    loading = np.ascontiguousarray(table.design.loading[:latent_dim, : statistic.shape[1]])
    product = np.empty((len(statistic), len(loading)), loading.dtype)
    work = partial(multiply, statistic, weights, loading, product)
    in_threads(work, spans(len(statistic), statistic.shape[1], ENTRIES_TO_READ))
    return product


@compiled_once
def multiply(statistic, weights, loading, product, begin, end):
    """Weighted sufficient statistics of the rows from ``begin`` to ``end`` times the loading."""
    latent_dim = len(loading)
    weighted = np.empty((1, statistic.shape[1]), statistic.dtype)
    for s in range(begin, end):
        if len(weights):
            _weigh(statistic, weights, s, weighted[0])
        for k in range(0, latent_dim - 1, 2):
            if len(weights):
                product[s, k], product[s, k + 1] = dots(weighted, 0, loading, k)
            else:
                product[s, k], product[s, k + 1] = dots(statistic, s, loading, k)
        if latent_dim % 2:
            if len(weights):
                product[s, latent_dim - 1] = dot(weighted, 0, loading, latent_dim - 1)
            else:
                product[s, latent_dim - 1] = dot(statistic, s, loading, latent_dim - 1)


# Rows are passed by number: taking one out of a table costs about as much as the work on it.
@numba.njit(**IN_ANY_ORDER)
def dots(x, s, loading, k):
    """Products of a row of ``x`` with two rows of the loading."""
    first, second = x.dtype.type(0), x.dtype.type(0)
    for i in range(x.shape[1]):
        first += x[s, i] * loading[k, i]
        second += x[s, i] * loading[k + 1, i]
    return first, second


@numba.njit(**IN_ANY_ORDER)
def dot(x, s, loading, k):
    """The product of a row of ``x`` with a row of the loading."""
    total = x.dtype.type(0)
    for i in range(x.shape[1]):
        total += x[s, i] * loading[k, i]
    return total


@numba.njit(**OPTIONS)
def _weigh(statistic, weights, s, weighted):
    row = s if len(weights) > 1 else 0
    last = weights.shape[1] - 1
    for i in range(len(weighted)):
        weighted[i] = statistic[s, i] * weights[row, min(i, last)]
