"""Means and information of many rows at once in the registers of a CPU, compiled by Numba.

Every lane of the processor's vectors holds a row, and all lanes step through the features together.
"""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, whole_registers
from pyro_expfam.deq.cpu.registers import BYTES, load, store, times
from pyro_expfam.deq.cpu.separate_moments import separate_moments
from pyro_expfam.deq.cpu.tiles import add_products

GROUP = 16
"""Features at a time: their natural parameters, means and variances are in the fastest cache."""

LANES = 128
"""Rows in flight. At 64 the loops' overhead shows; 256 lanes exceed the fastest cache."""

STRIDE = LANES + 16
"""Numbers from one row of a large array of lanes to the next. With a power of two, the entries of a
lane would be in a few sets of the fastest cache, and push each other out."""

SHARED = 3 * GROUP
"""Arrays of lanes in the working memory of a group of features: linear predictors or means, the
derivatives of losses, and what else a feature has."""


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
def linear_predictors(rows, intercept, offset, unit, begin, count, row, z, eta):
    """Linear predictors of a group of features, for all lanes.

    Args:
        rows: the loading, ``(d, l)``.
        intercept: the intercept.
        offset: the offset.
        unit: what multiplies the offset.
        begin: the first feature of the group.
        count: the number of features.
        row: the row that a lane holds, ``(lanes,)``.
        z: latents, ``(l or more, lanes)``.
        eta: where the predictors go, ``(count or more, lanes)``.
    """
    whole_registers()
    for c in range(count):
        constant = intercept[begin + c]
        for r in range(LANES):
            eta[c, r] = constant
    add_products(eta, 0, count, rows, begin, 0, z, rows.shape[1])
    if len(offset):
        by_row = 1 if len(offset) > 1 else 0
        for c in range(count):
            column = min(begin + c, offset.shape[1] - 1)
            for r in range(LANES):
                eta[c, r] += unit * offset[by_row * row[r], column]


@numba.njit(**OPTIONS)
def panel_memory(latent_dim, like):
    """Memory for the factors of a group of features, see :func:`load_panel`."""
    return np.zeros((latent_dim * (latent_dim + 5) // 2, GROUP), like.dtype)


@numba.njit(**OPTIONS)
def load_panel(rows, mean_scale, variance_scale, begin, count, panel):
    """Finds what multiplies means and variances of a group of features.

    Args:
        rows: the loading, ``(d, l)``.
        mean_scale: the factor of means, ``(d,)``.
        variance_scale: the factor of variances, ``(d,)``.
        begin: the first feature of the group.
        count: the number of features.
        panel: where loadings go, loadings times the factor of means, and products of pairs of
            loadings times the factor of variances.
    """
    latent_dim, across = rows.shape[1], BYTES // rows.itemsize
    for c in range(count):
        for k in range(latent_dim):
            w = rows[begin + c, k]
            panel[k, c], panel[latent_dim + k, c] = w, mean_scale[begin + c] * w
    product = 2 * latent_dim
    for j in range(latent_dim):
        for c in range(count):
            panel[product + j, c] = variance_scale[begin + c] * panel[j, c]
        for c in range(0, GROUP, across):
            own = load(panel, product + j, c)
            for k in range(j + 1):
                store(panel, product + k, c, times(own, load(panel, k, c)))
        product += j + 1


@numba.njit(**OPTIONS)
def add_group(panel, mean, variance, count, sums, information):
    """Adds what a group of features contributes to all lanes.

    Args:
        panel: as :func:`load_panel` fills it.
        mean: means of the features, ``(count or more, lanes)``.
        variance: their variances.
        count: the number of features.
        sums: of means times loadings, ``(l, lanes)``.
        information: packed lower triangles.
    """
    latent_dim = len(sums)
    add_products(sums, 0, latent_dim, panel, latent_dim, 0, mean, count)
    add_products(information, 0, len(information), panel, 2 * latent_dim, 0, variance, count)


@numba.njit(**OPTIONS)
def begin_sums(precision, sums, information):
    """Sums without a feature, and the information of the prior."""
    sums[:] = 0
    information[:] = 0
    for k in range(len(sums)):
        information[k * (k + 3) // 2, :] = precision


@numba.njit(**OPTIONS)
def evaluate(table, row, z, sums, information, work):
    """Sums over the features for all lanes: means times loadings, and the information.

    Args:
        table: the table.
        row: the row that a lane holds, ``(lanes,)``.
        z: latents, padded like the loading, ``(padded l, lanes)``.
        sums: where the sums go, ``(l, lanes)``.
        information: where its packed lower triangle goes, ``(l (l + 1) / 2, stride)``.
        work: memory for natural parameters, means and variances, ``(SHARED, lanes)``, and
            :func:`panel_memory`.
    """
    whole_registers()
    # Taking an array out of a tuple inside the loops costs more than the work on it.
    design, offset, weights = table.design, table.offset, table.weights
    rows, exponent_rows, intercept = design.rows, design.exponent_rows, design.exponent_intercept
    mean_scale, variance_scale, unit = design.mean_scale, design.variance_scale, design.unit
    law, (memory, panel) = design.law, work
    exponent, mean, variance = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    begin_sums(design.precision, sums, information)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(exponent_rows, intercept, offset, unit, begin, count, row, z, exponent)
        separate_moments(law, exponent, count, mean, variance)
        if len(weights):
            for c in range(count):
                weigh(weights, begin + c, row, mean[c], variance[c])
        load_panel(rows, mean_scale, variance_scale, begin, count, panel)
        add_group(panel, mean, variance, count, sums, information)
