"""Probabilities and information of categories for many rows at once, compiled by Numba.

Every lane of the processor's vectors holds a row, and all lanes step through the levels together.
"""

from __future__ import annotations

import numba

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, whole_registers
from pyro_expfam.deq.cpu.covariance_tiles import add_covariances
from pyro_expfam.deq.cpu.evaluation import LANES, begin_sums, exponents, linear_predictors
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.registers import BYTES, everywhere, load, minus, store
from pyro_expfam.deq.cpu.softmax_table import LEVELS_AT_ONCE, columns_at_once
from pyro_expfam.deq.cpu.tiles import add_products


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
    for k in range(len(probability)):
        exponents(loading, intercept, offset, unit, first + k, row, z, probability[k])
    _normalise(probability, work)


@numba.njit(**OPTIONS)
def _normalise(probability, work):
    """Makes probabilities of the exponents of two of a column."""
    whole_registers()
    top, total = work[0], work[1]
    for r in range(LANES):
        top[r] = probability[0, r]
    for k in range(1, len(probability)):
        for r in range(LANES):
            top[r] = max(top[r], probability[k, r])
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
def evaluate_levels(table, row, z, sums, information, work):
    """As ``evaluate`` for a table of categories.

    The information of a column is the covariance of the rows of its loading. It is summed from rows
    minus their mean: for a probability close to 1 the difference of two sums would lose its digits.
    """
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    loading, levels, latent_dim = design.loading, design.levels, len(sums)
    exponent_rows, intercept = design.exponent_loading.T, design.exponent_intercept
    columns = columns_at_once(levels)
    group, (memory, deviation) = columns * levels, work
    probability, memory = memory[:group], memory[group:]
    mean, memory = memory[: columns * latent_dim], memory[columns * latent_dim :]
    begin_sums(design.precision, sums, information)
    width, lanes = loading.shape[1], BYTES // loading.itemsize
    for begin in range(0, width, group):
        count = min(group, width - begin)
        linear_predictors(
            exponent_rows, intercept, offset, design.unit, begin, count, row, z, probability
        )
        mean[:] = 0
        for c in range(count // levels):
            first = begin + c * levels
            of_column = probability[c * levels : (c + 1) * levels]
            mean_of_column = mean[c * latent_dim : (c + 1) * latent_dim]
            _normalise(of_column, memory)
            add_products(mean_of_column, 0, latent_dim, loading, 0, first, of_column, levels)
            if len(weights):
                _weigh(weights, first, row, of_column, mean_of_column, sums, memory[0])
            else:
                for k in range(latent_dim):
                    for r in range(LANES):
                        sums[k, r] += mean_of_column[k, r]
        for place in range(0, count, LEVELS_AT_ONCE):
            number = min(LEVELS_AT_ONCE, count - place)
            for r in range(0, LANES, lanes):
                _find_deviations(loading, begin, place, number, levels, mean, r, deviation)
                add_covariances(deviation, latent_dim, probability, place, number, r, information)


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
def _find_deviations(loading, begin, place, number, levels, mean, r, deviation):
    """Rows of the loading minus the mean of their column, for the lanes of a register."""
    latent_dim, e = len(deviation) // LEVELS_AT_ONCE, 0
    # A division for every level would take longer than the work on it.
    column, level = place // levels, place % levels
    while e < number:
        end = min(number, e + levels - level)
        for k in range(latent_dim):
            of_column = load(mean, column * latent_dim + k, r)
            for i in range(e, end):
                w = everywhere(loading[k, begin + place + i])
                store(deviation, i * latent_dim + k, 0, minus(w, of_column))
        e, column, level = end, column + 1, 0
