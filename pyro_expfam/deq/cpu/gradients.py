r"""The implicit gradient of many rows at once, compiled by Numba.

A block of rows solves for :math:`u = H^{-1} \bar g`, and steps through the features once more to
add its part to the gradients of loading and intercept. Nothing of size rows x features is written.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, compiled_once
from pyro_expfam.deq.cpu.cpu_table import GROUP, as_cpu_table
from pyro_expfam.deq.cpu.evaluation import (
    LANES,
    evaluate,
    exponential_moments,
    exponents,
    logistic_moments,
    weigh,
)
from pyro_expfam.deq.cpu.linear_algebra import factorise, substitute
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem


class Gradients(NamedTuple):
    """What all rows of a table add to the gradients.

    Attributes:
        W: the gradient of the loading, ``(d, l)``.
        b: the gradient of the intercept, ``(d,)``.
        u: solutions of the systems, ``(N, l)``; zero where they have none.
        resolved: booleans ``(N,)``, False where the format lacks the digits for the system of a
            row. Such a row adds nothing.
    """

    W: Tensor
    b: Tensor
    u: Tensor
    resolved: Tensor


def sum_over_rows(
    problem: LatentProblem, z: Tensor, grad: Tensor, smallest_pivot: float
) -> Gradients:
    """The gradients of loading and intercept through the root, given the gradient of the root."""
    table = as_cpu_table(problem)
    statistic = problem.statistic.contiguous().numpy()
    z_rows, grad_rows = z.contiguous().numpy(), grad.contiguous().numpy()
    u = np.empty_like(z_rows)
    resolved = np.empty(len(z_rows), np.bool_)
    work = partial(
        _sum_over_rows,
        table,
        statistic,
        z_rows,
        grad_rows,
        z_rows.dtype.type(smallest_pivot),
        u,
        resolved,
    )
    parts = in_threads(work, spans(len(statistic), statistic.shape[1], ENTRIES_TO_SOLVE))
    total = torch.from_numpy(parts[0] if len(parts) == 1 else np.sum(parts, 0)).T
    return Gradients(total[:, :-1], total[:, -1], torch.from_numpy(u), torch.from_numpy(resolved))


@compiled_once
def _sum_over_rows(table, statistic, z, grad, smallest_pivot, u, resolved, begin, end):
    """What rows from ``begin`` to ``end`` add to the gradients, ``(l + 1, d)``."""
    design = table.design
    latent_dim, num_features, dtype = z.shape[1], statistic.shape[1], z.dtype
    packed_size = len(design.products)
    row = np.zeros(LANES, np.int64)
    latents = np.zeros((len(design.loading), LANES), dtype)
    vectors = np.zeros((3, latent_dim, LANES), dtype)
    sums, target, solution = vectors[0], vectors[1], vectors[2]
    information = np.zeros((packed_size, LANES), dtype)
    factor = np.zeros((packed_size, LANES), dtype)
    good = np.zeros(LANES, np.bool_)
    work = np.zeros((1 + 2 * GROUP, LANES), dtype)
    total = np.zeros((latent_dim + 1, num_features), dtype)
    for first in range(begin, end, LANES):
        for r in range(LANES):
            # Lanes beyond the last row hold that row once more and are not counted.
            row[r] = min(first + r, end - 1)
            for k in range(latent_dim):
                latents[k, r] = z[row[r], k]
                target[k, r] = grad[row[r], k]
        evaluate(table, row, latents, sums, information, work)
        factorise(information, smallest_pivot, factor, good)
        substitute(factor, target, solution)
        for r in range(LANES):
            counts = good[r] and first + r < end
            for k in range(latent_dim):
                if not counts:
                    solution[k, r] = 0
                if first + r < end:
                    u[row[r], k] = solution[k, r]
            if first + r < end:
                resolved[row[r]] = good[r]
        _add_features(table, statistic, row, latents, solution, work, total)
    return total


@numba.njit(**OPTIONS)
def _add_features(table, statistic, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, offset, weights = table.design, table.offset, table.weights
    loading, exponent_loading = design.loading, design.exponent_loading
    exponent_intercept, unit = design.exponent_intercept, design.unit
    mean_scale, variance_scale = design.mean_scale, design.variance_scale
    is_exponential, largest, centre = design.exponential, design.largest_exponent, design.centre
    exponent, mean, variance = work[0], work[1], work[2]
    along, residual = work[3], work[4]
    latent_dim = len(u)
    for i in range(total.shape[1]):
        exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
        if is_exponential:
            exponential_moments(exponent, largest, mean, variance)
        else:
            logistic_moments(exponent, centre, mean, variance)
        scale, curvature, first = mean_scale[i], variance_scale[i], loading[0, i]
        for r in range(LANES):
            residual[r] = statistic[row[r], i] - scale * mean[r]
            along[r] = curvature * first * u[0, r]
        for k in range(1, latent_dim):
            w = curvature * loading[k, i]
            for r in range(LANES):
                along[r] += w * u[k, r]
        if len(weights):
            weigh(weights, i, row, residual, variance)
        # From here on this array holds a.
        for r in range(LANES):
            variance[r] *= along[r]
        for k in range(latent_dim):
            total[k, i] += _products(residual, u, variance, z, k)
        total[latent_dim, i] -= _sum(variance)


@numba.njit(**IN_ANY_ORDER)
def _products(residual, u, a, z, k):
    total = a.dtype.type(0)
    for r in range(LANES):
        total += residual[r] * u[k, r] - a[r] * z[k, r]
    return total


@numba.njit(**IN_ANY_ORDER)
def _sum(a):
    total = a.dtype.type(0)
    for r in range(LANES):
        total += a[r]
    return total
