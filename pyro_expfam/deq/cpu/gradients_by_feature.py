"""What rows add to the gradients through the root, feature by feature, compiled by Numba."""

from __future__ import annotations

import numba

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, INLINED, OPTIONS
from pyro_expfam.deq.cpu.evaluation import (
    LANES,
    exponents,
    weigh,
)
from pyro_expfam.deq.cpu.separate_moments import separate_moments


@numba.njit(**OPTIONS)
def add_features(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, offset, weights = table.design, table.offset, table.weights
    statistic = table.observed
    loading, exponent_loading = design.loading, design.exponent_loading
    exponent_intercept, unit = design.exponent_intercept, design.unit
    mean_scale, variance_scale = design.mean_scale, design.variance_scale
    law = design.law
    memory, _ = work
    exponents_of_group, means, variances = memory[:1], memory[1:2], memory[2:3]
    exponent, mean, variance, along = memory[0], memory[1], memory[2], memory[3]
    residual = memory[4]
    latent_dim = len(u)
    for i in range(total.shape[1]):
        exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
        separate_moments(law, exponents_of_group, 1, means, variances)
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
        add_feature(residual, u, variance, z, i, total)


@numba.njit(**INLINED)
def add_feature(residual, u, a, z, i, total):
    """Adds what all lanes contribute to the gradients of a feature."""
    for k in range(len(u)):
        total[k, i] += _products(residual, u, a, z, k)
    total[len(u), i] -= _sum(a)


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
