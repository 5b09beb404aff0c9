"""Probabilities and information of categories for many rows at once, compiled by Numba.

Every lane of the processor's vectors holds a row, and all lanes step through the levels together.
"""

from __future__ import annotations

import numba

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS
from pyro_expfam.deq.cpu.evaluation import LANES, exponents
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.softmax_table import LEVELS_AT_ONCE, columns_at_once


@numba.njit(**OPTIONS)
def probabilities(table, first, row, z, probability, work):
    """The probabilities of the levels of a column, for all lanes.

    Args:
        table: the table.
        first: the first linear predictor of the column.
        row: the row that a lane holds, ``(lanes,)``.
        z: latents, padded like the loading, ``(padded l, lanes)``.
        probability: where the probabilities go, ``(levels, lanes)``.
        work: memory, ``(2, lanes)``.
    """
    design, offset = table.design, table.offset
    loading, intercept, unit = design.exponent_loading, design.exponent_intercept, design.unit
    top, total = work[0], work[1]
    for k in range(len(probability)):
        # Up to here these are exponents of two.
        exponent = probability[k]
        exponents(loading, intercept, offset, unit, first + k, row, z, exponent)
        for r in range(LANES):
            top[r] = exponent[r] if k == 0 else max(top[r], exponent[r])
    total[:] = 0
    for k in range(len(probability)):
        for r in range(LANES):
            # The largest power is 1, so that the sum can neither overflow nor vanish.
            power = power_of_two(probability[k, r] - top[r])
            probability[k, r] = power
            total[r] += power
    for r in range(LANES):
        total[r] = 1 / total[r]
    for k in range(len(probability)):
        for r in range(LANES):
            probability[k, r] *= total[r]


@numba.njit(**OPTIONS)
def sum_of_levels(factors, first, probability, sums):
    """Sums over the levels of a column of probabilities times factors, ``(l, lanes)``."""
    levels = len(probability)
    for k in range(len(sums)):
        for r in range(LANES):
            sums[k, r] = factors[k, first] * probability[0, r]
        for c in range(1, levels - 1, 2):
            u, w = factors[k, first + c], factors[k, first + c + 1]
            for r in range(LANES):
                sums[k, r] += u * probability[c, r] + w * probability[c + 1, r]
        if levels % 2 == 0:
            u = factors[k, first + levels - 1]
            for r in range(LANES):
                sums[k, r] += u * probability[levels - 1, r]


@numba.njit(**OPTIONS)
def evaluate_levels(table, row, z, sums, information, work):
    """As ``evaluate`` for a table of categories.

    The information of a column is the covariance of the rows of its loading. It is summed from rows
    minus their mean: for a probability close to 1 the difference of two sums would lose its digits.
    """
    design, weights = table.design, table.weights
    loading, levels, latent_dim = design.loading, design.levels, len(sums)
    columns = columns_at_once(levels)
    group = columns * levels
    probability, work = work[:group], work[group:]
    mean, work = work[: columns * latent_dim], work[columns * latent_dim :]
    deviation, work = work[: LEVELS_AT_ONCE * latent_dim], work[LEVELS_AT_ONCE * latent_dim :]
    weighted, work = work[: LEVELS_AT_ONCE * latent_dim], work[LEVELS_AT_ONCE * latent_dim :]
    sums[:] = 0
    information[:] = 0
    for k in range(latent_dim):
        information[k * (k + 3) // 2, :] = design.precision
    for begin in range(0, loading.shape[1], group):
        for c in range(columns):
            first = begin + c * levels
            of_column = probability[c * levels : (c + 1) * levels]
            mean_of_column = mean[c * latent_dim : (c + 1) * latent_dim]
            probabilities(table, first, row, z, of_column, work)
            sum_of_levels(loading, first, of_column, mean_of_column)
            if len(weights):
                _weigh(weights, first, row, of_column, mean_of_column, sums, work[0])
            else:
                for k in range(latent_dim):
                    for r in range(LANES):
                        sums[k, r] += mean_of_column[k, r]
        for place in range(0, group, LEVELS_AT_ONCE):
            _find_deviations(loading, begin, place, levels, probability, mean, deviation, weighted)
            _add_covariances(deviation, weighted, information)


@numba.njit(**INLINED)
def _weigh(weights, first, row, probability, mean, sums, weight):
    """Adds weighted means to the sums, and multiplies probabilities by the weight of a column."""
    # All levels of a column have the same weight.
    column = min(first, weights.shape[1] - 1)
    by_row = 1 if len(weights) > 1 else 0
    for r in range(LANES):
        weight[r] = weights[by_row * row[r], column]
    for k in range(len(mean)):
        for r in range(LANES):
            sums[k, r] += weight[r] * mean[k, r]
    for k in range(len(probability)):
        for r in range(LANES):
            probability[k, r] *= weight[r]


@numba.njit(**OPTIONS)
def _find_deviations(loading, begin, place, levels, probability, mean, deviation, weighted):
    """Rows of the loading minus the mean of their column, also times their probabilities."""
    latent_dim = len(deviation) // LEVELS_AT_ONCE
    for e in range(LEVELS_AT_ONCE):
        column, i = (place + e) // levels, begin + place + e
        for k in range(latent_dim):
            w = loading[k, i]
            for r in range(LANES):
                x = w - mean[column * latent_dim + k, r]
                deviation[k * LEVELS_AT_ONCE + e, r] = x
                weighted[k * LEVELS_AT_ONCE + e, r] = probability[place + e, r] * x


@numba.njit(**OPTIONS)
def _add_covariances(deviation, weighted, information):
    """Adds the products of a group of linear predictors to the information."""
    for j in range(len(deviation) // LEVELS_AT_ONCE):
        for k in range(j + 1):
            x, y, entry = LEVELS_AT_ONCE * j, LEVELS_AT_ONCE * k, j * (j + 1) // 2 + k
            for r in range(LANES):
                information[entry, r] += (
                    weighted[x, r] * deviation[y, r] + weighted[x + 1, r] * deviation[y + 1, r]
                ) + (
                    weighted[x + 2, r] * deviation[y + 2, r]
                    + weighted[x + 3, r] * deviation[y + 3, r]
                )
