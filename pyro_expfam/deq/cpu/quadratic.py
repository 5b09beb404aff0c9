r"""Gaussian columns of a mixed table, whose losses are quadratic in the latents.

Their information, the weighted Gram matrix of the loading, is the same at all latents. So an
evaluation takes no step through the features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.cpu_table import CpuTable, coefficients
from pyro_expfam.deq.cpu.evaluation import LANES, exponents, weigh
from pyro_expfam.deq.cpu.gradients_by_feature import add_feature
from pyro_expfam.deq.problem import LatentProblem


class QuadraticDesign(NamedTuple):
    """Arrays of Gaussian columns.

    Attributes:
        loading: transposed, and padded to an even number of latents with zeros.
        intercept: the intercept.
        gram: the packed Gram matrices of the loading under the weights, ``(N, l (l + 1) / 2)``, or
            one for all rows.
        linear: the score at the latents zero, without the prior, ``(N, l)``.
        precision: precision of the latents.
        self_concordance: 0, since variances are constant.
    """

    loading: Any
    intercept: Any
    gram: Any
    linear: Any
    precision: Any
    self_concordance: Any


def quadratic_design(problem: LatentProblem) -> QuadraticDesign:
    """The design of Gaussian columns."""
    W, b = coefficients(problem)
    latent_dim = W.shape[1]
    loading = np.zeros((latent_dim + latent_dim % 2, len(W)), W.dtype)
    loading[:latent_dim] = W.T
    row, column = np.tril_indices(latent_dim)
    products = torch.from_numpy(W[:, row] * W[:, column])
    gram: Tensor = products.sum(0, keepdim=True)
    if problem.weights is not None:
        gram = problem.weights.expand(-1, len(b)) @ products
    residual = problem.statistic - problem.b
    if problem.offset is not None:
        residual = residual - problem.offset
    linear = problem.map.transpose(problem.weighted(residual))
    number = b.dtype.type
    return QuadraticDesign(
        loading,
        b,
        gram.contiguous().numpy(),
        linear.contiguous().numpy(),
        number(problem.precision),
        number(0),
    )


def linear_part_of(table: CpuTable) -> np.ndarray:
    """The part of the scores that is the same at all latents, ``(N, l)``."""
    linear: np.ndarray = table.design.linear
    return linear


@numba.njit(**OPTIONS)
def evaluate_quadratic(table, row, z, sums, information, work):
    """As ``evaluate``; what is free of the latents is in the linear part."""
    gram, precision = table.design.gram, table.design.precision
    by_row = 1 if len(gram) > 1 else 0
    sums[:] = 0
    for k in range(len(sums)):
        for j in range(k + 1):
            entry = k * (k + 1) // 2 + j
            for r in range(LANES):
                value = gram[by_row * row[r], entry]
                information[entry, r] = value
                sums[k, r] += value * z[j, r]
                if j < k:
                    sums[j, r] += value * z[k, r]
        for r in range(LANES):
            information[k * (k + 3) // 2, r] += precision


@numba.njit(**OPTIONS)
def add_quadratic(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, observed, offset, weights = table.design, table.observed, table.offset, table.weights
    loading, intercept = design.loading, design.intercept
    one = loading.dtype.type(1)
    residual, along = work[0], work[1]
    for i in range(total.shape[1]):
        exponents(loading, intercept, offset, one, i, row, z, residual)
        along[:] = 0
        for k in range(len(u)):
            w = loading[k, i]
            for r in range(LANES):
                along[r] += w * u[k, r]
        for r in range(LANES):
            residual[r] = observed[row[r], i] - residual[r]
        if len(weights):
            weigh(weights, i, row, residual, along)
        add_feature(residual, u, along, z, i, total)


def memory_of_quadratic(table, latent_dim):
    """Memory for two arrays of lanes; for compiled functions."""
    return np.zeros((2, LANES), table.design.loading.dtype)
