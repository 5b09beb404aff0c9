"""Means and information of many rows at once in the registers of a CPU, compiled by Numba.

Every lane of the processor's vectors holds a row, and all lanes step through the features together.
"""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS
from pyro_expfam.deq.cpu.cpu_table import GROUP
from pyro_expfam.deq.cpu.fast_exponential import power_of_two

LANES = 128
"""Rows in flight. At 64 the loops' overhead shows; 256 lanes exceed the fastest cache."""


@numba.njit(**INLINED)
def exponential_moments(exponent, largest, mean, variance):
    """Means and variances of an exponential activation, from exponents of two."""
    for r in range(LANES):
        rate = power_of_two(exponent[r])
        rate = rate if exponent[r] <= largest else exponent[r] * np.inf
        mean[r], variance[r] = rate, rate


@numba.njit(**INLINED)
def logistic_moments(exponent, centre, mean, variance):
    """Means and variances of a logistic activation, before the scales of the design."""
    one = exponent.dtype.type(1)
    for r in range(LANES):
        odds = power_of_two(exponent[r])
        likelihood = one / (one + odds)
        mean[r] = likelihood - centre
        # The odds are multiplied first: where they are largest, the square of the other factor
        # underflows.
        variance[r] = odds * likelihood * likelihood


@numba.njit(**INLINED)
def exponents(loading, intercept, offset, unit, i, row, z, exponent):
    """Exponents of two of a feature, for all lanes."""
    w0, w1, constant = loading[0, i], loading[1, i], intercept[i]
    for r in range(LANES):
        exponent[r] = constant + w0 * z[0, r] + w1 * z[1, r]
    for k in range(2, loading.shape[0], 2):
        w0, w1 = loading[k, i], loading[k + 1, i]
        for r in range(LANES):
            exponent[r] += w0 * z[k, r] + w1 * z[k + 1, r]
    if len(offset):
        # Beyond the last feature the loading is zero, so that the entry adds nothing.
        column = min(i, offset.shape[1] - 1)
        by_row = 1 if len(offset) > 1 else 0
        for r in range(LANES):
            exponent[r] += unit * offset[by_row * row[r], column]


@numba.njit(**INLINED)
def weigh(weights, i, row, mean, variance):
    """Multiplies by the entry weights of a feature."""
    column = min(i, weights.shape[1] - 1)
    by_row = 1 if len(weights) > 1 else 0
    for r in range(LANES):
        weight = weights[by_row * row[r], column]
        mean[r] *= weight
        variance[r] *= weight


@numba.njit(**OPTIONS)
def evaluate(table, row, z, sums, information, work):
    """Sums over the features for all lanes: means times loadings, and the information.

    Args:
        table: the table.
        row: the row that a lane holds, ``(lanes,)``.
        z: latents, padded like the loading, ``(padded l, lanes)``.
        sums: where the sums go, ``(l, lanes)``.
        information: where its packed lower triangle goes.
        work: memory for natural parameters, means and variances, ``(1 + 2 * GROUP, lanes)``.
    """
    # Taking an array out of a tuple inside the loops costs more than the work on it.
    design, offset, weights = table.design, table.offset, table.weights
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, products, unit = design.mean_loading, design.products, design.unit
    is_exponential, centre = design.exponential, design.centre
    largest = design.largest_exponent
    exponent, mean, variance = work[0], work[1 : 1 + GROUP], work[1 + GROUP :]
    sums[:] = 0
    information[:] = 0
    for k in range(len(sums)):
        information[k * (k + 3) // 2, :] = design.precision
    for begin in range(0, loading.shape[1], GROUP):
        for c in range(GROUP):
            i = begin + c
            exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
            if is_exponential:
                exponential_moments(exponent, largest, mean[c], variance[c])
            else:
                logistic_moments(exponent, centre, mean[c], variance[c])
            if len(weights):
                weigh(weights, i, row, mean[c], variance[c])
        add_products(sums, loading, begin, mean)
        add_products(information, products, begin, variance)


@numba.njit(**OPTIONS)
def add_products(sums, factors, begin, entries):
    """Adds up a group of features, two sums at a time, which share their loads."""
    last = sums.shape[0] - 1
    for k in range(0, last, 2):
        for c in range(begin, begin + GROUP, 4):
            e = c - begin
            u0, u1, u2, u3 = factors[k, c], factors[k, c + 1], factors[k, c + 2], factors[k, c + 3]
            w0, w1 = factors[k + 1, c], factors[k + 1, c + 1]
            w2, w3 = factors[k + 1, c + 2], factors[k + 1, c + 3]
            for r in range(LANES):
                e0, e1, e2, e3 = (
                    entries[e, r],
                    entries[e + 1, r],
                    entries[e + 2, r],
                    entries[e + 3, r],
                )
                sums[k, r] += (u0 * e0 + u1 * e1) + (u2 * e2 + u3 * e3)
                sums[k + 1, r] += (w0 * e0 + w1 * e1) + (w2 * e2 + w3 * e3)
    if last % 2 == 0:
        for c in range(begin, begin + GROUP, 4):
            e = c - begin
            u0, u1 = factors[last, c], factors[last, c + 1]
            u2, u3 = factors[last, c + 2], factors[last, c + 3]
            for r in range(LANES):
                sums[last, r] += (u0 * entries[e, r] + u1 * entries[e + 1, r]) + (
                    u2 * entries[e + 2, r] + u3 * entries[e + 3, r]
                )
