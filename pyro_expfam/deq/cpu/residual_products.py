"""Products of the residuals of Gaussian rows with a loading, compiled by Numba, in one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.cpu_table import coefficients, dot, dots, entries
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem


def residual_products(problem: LatentProblem, units: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums over the columns of residuals times loadings, ``(N, l)``.

    Args:
        problem: a problem of Gaussian columns, whose residuals are those at the latents zero.
        units: what multiplies the observations of each column, ``(1, d)``.
        weights: the weight of each column, ``(1, d)``.
    """
    W, b = coefficients(problem)
    loading = np.ascontiguousarray((weights.numpy() * W.T).astype(W.dtype, copy=False))
    y, by_column = problem.y.contiguous().numpy(), units.to(problem.b).numpy()
    products = torch.empty(len(y), len(loading), dtype=problem.b.dtype)
    arrays: tuple[Any, ...] = (by_column[0].copy(), b, entries(problem.offset, problem.b), loading)
    work = partial(multiply_residuals, y, *arrays, products.numpy())
    in_threads(work, spans(len(y), y.shape[1], ENTRIES_TO_READ))
    return products


@compiled_once
def multiply_residuals(y, units, intercept, offset, loading, products, begin, end):
    """Writes the products of the rows from ``begin`` to ``end`` into ``(N, l)``."""
    latent_dim = len(loading)
    residual = np.empty((1, y.shape[1]), loading.dtype)
    for s in range(begin, end):
        # Means far from zero are subtracted before they can round the sums.
        for i in range(y.shape[1]):
            residual[0, i] = units[i] * y[s, i] - intercept[i]
        if len(offset):
            row, last = s if len(offset) > 1 else 0, offset.shape[1] - 1
            for i in range(y.shape[1]):
                residual[0, i] -= offset[row, min(i, last)]
        for k in range(0, latent_dim - 1, 2):
            products[s, k], products[s, k + 1] = dots(residual, 0, loading, k)
        if latent_dim % 2:
            products[s, latent_dim - 1] = dot(residual, 0, loading, latent_dim - 1)
