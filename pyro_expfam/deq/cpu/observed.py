"""Scores and information where curvatures depend on the observations, compiled by Numba.

:class:`~pyro_expfam.families.NegativeBinomial` and :class:`~pyro_expfam.families.Gamma` have such
losses. The losses have the form of bits and counts with weights and offsets by entry, which the
kernels here find from the observation as they go.
"""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS
from pyro_expfam.deq.cpu.cpu_table import GROUP
from pyro_expfam.deq.cpu.evaluation import LANES, add_products, exponents, weigh
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.gradients_by_feature import add_feature

SHARED = 1 + 2 * GROUP
"""Arrays of the working memory before the observations of the rows in flight."""


@numba.njit(**OPTIONS)
def load_observed(observed, row, lanes, loaded):
    """Copies the observations of rows that lanes have taken to where the lanes read them.

    They are read once per evaluation, and in the table the rows of neighbouring lanes are apart.

    Args:
        observed: observations of all rows, ``(N, d)``.
        row: the row that a lane holds, ``(lanes,)``.
        lanes: observations of these rows, ``(d or more, lanes)``.
        loaded: the rows that are there already.
    """
    for r in range(LANES):
        if row[r] != loaded[r]:
            loaded[r] = row[r]
            for i in range(observed.shape[1]):
                lanes[i, r] = observed[row[r], i]


@numba.njit(**INLINED)
def negative_binomial_moments(exponent, size, y, mean, variance):
    r"""The slope :math:`r p - y q` and the curvature :math:`(y + r) p q` of the loss.

    Here :math:`p = 1 - q` is the logistic function of :math:`\eta - \log r`.
    """
    one = exponent.dtype.type(1)
    for r in range(LANES):
        odds = power_of_two(exponent[r])
        likelihood = one / (one + odds)
        unlikely, count = odds * likelihood, y[r]
        mean[r] = size * likelihood - count * unlikely
        variance[r] = (count + size) * likelihood * unlikely


@numba.njit(**INLINED)
def gamma_moments(exponent, largest, shape, y, mean, variance):
    r"""The slope :math:`k - c` and the curvature :math:`c = k y e^{-\eta}` of the loss."""
    half = exponent.dtype.type(0.5)
    for r in range(LANES):
        # Half of the exponent twice: a power of two may be out of range where its product with the
        # observation is not.
        root = power_of_two(half * exponent[r])
        ratio = (y[r] * root) * root
        ratio = ratio if exponent[r] <= 2 * largest else exponent[r] * np.inf
        variance[r] = shape * ratio
        mean[r] = shape - variance[r]


@numba.njit(**OPTIONS)
def evaluate_observed(table, row, z, sums, information, work):
    """As ``evaluate``, with slopes in place of means."""
    # Taking an array out of a tuple inside the loops costs more than the work on it.
    design, offset, weights = table.design, table.offset, table.weights
    memory, loaded = work
    y = memory[SHARED:]
    load_observed(table.observed, row, y, loaded)
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, products, unit, size = design.loading, design.products, design.unit, design.size
    is_gamma, largest = design.exponential, design.largest_exponent
    exponent, slope, curvature = memory[0], memory[1 : 1 + GROUP], memory[1 + GROUP : SHARED]
    sums[:] = 0
    information[:] = 0
    for k in range(len(sums)):
        information[k * (k + 3) // 2, :] = design.precision
    for begin in range(0, loading.shape[1], GROUP):
        for c in range(GROUP):
            i = begin + c
            exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
            if is_gamma:
                gamma_moments(exponent, largest, size[i], y[i], slope[c], curvature[c])
            else:
                negative_binomial_moments(exponent, size[i], y[i], slope[c], curvature[c])
            if len(weights):
                weigh(weights, i, row, slope[c], curvature[c])
        add_products(sums, loading, begin, slope)
        add_products(information, products, begin, curvature)


@numba.njit(**OPTIONS)
def add_observed(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, offset, weights = table.design, table.offset, table.weights
    memory, loaded = work
    y = memory[SHARED:]
    load_observed(table.observed, row, y, loaded)
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, unit, size = design.loading, design.unit, design.size
    is_gamma, largest = design.exponential, design.largest_exponent
    exponent, slope, curvature, along = memory[0], memory[1], memory[2], memory[3]
    for i in range(total.shape[1]):
        exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
        if is_gamma:
            gamma_moments(exponent, largest, size[i], y[i], slope, curvature)
        else:
            negative_binomial_moments(exponent, size[i], y[i], slope, curvature)
        if len(weights):
            weigh(weights, i, row, slope, curvature)
        along[:] = 0
        for k in range(len(u)):
            w = loading[k, i]
            for r in range(LANES):
                along[r] += w * u[k, r]
        # From here on these arrays hold r and a.
        for r in range(LANES):
            slope[r] = -slope[r]
            curvature[r] *= along[r]
        add_feature(slope, u, curvature, z, i, total)
