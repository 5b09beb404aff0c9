r"""What rows add to the gradients through the root of a table of categories, compiled by Numba."""

from __future__ import annotations

import numba

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.gradients_by_feature import add_feature
from pyro_expfam.deq.cpu.softmax import probabilities


@numba.njit(**OPTIONS)
def add_levels(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by linear predictor."""
    design, weights, indicators = table.design, table.weights, table.observed
    loading, levels, latent_dim = design.loading, design.levels, len(u)
    memory, _ = work
    probability, along = memory[:levels], memory[levels : 2 * levels]
    mean, weight, memory = memory[2 * levels], memory[2 * levels + 1], memory[2 * levels + 2 :]
    weight[:] = 1
    for first in range(0, total.shape[1], levels):
        probabilities(table, first, row, z, probability, memory)
        if len(weights):
            column = min(first, weights.shape[1] - 1)
            by_row = 1 if len(weights) > 1 else 0
            for r in range(LANES):
                weight[r] = weights[by_row * row[r], column]
        mean[:] = 0
        for c in range(levels):
            along[c] = 0
            for k in range(latent_dim):
                w = loading[k, first + c]
                for r in range(LANES):
                    along[c, r] += w * u[k, r]
            for r in range(LANES):
                mean[r] += probability[c, r] * along[c, r]
        for c in range(levels):
            i = first + c
            # From here on these arrays hold a and r.
            for r in range(LANES):
                p = probability[c, r]
                along[c, r] = weight[r] * p * (along[c, r] - mean[r])
                probability[c, r] = weight[r] * (indicators[row[r], i] - p)
            add_feature(probability[c], u, along[c], z, i, total)
