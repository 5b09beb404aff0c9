"""Scores and information where curvatures depend on the observations, compiled by Numba.

:class:`~pyro_expfam.families.NegativeBinomial`, :class:`~pyro_expfam.families.Gamma` and bits and
counts under a link have such losses.
"""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import (
    GROUP,
    LANES,
    add_group,
    begin_sums,
    exponents,
    linear_predictors,
    load_panel,
    weigh,
)
from pyro_expfam.deq.cpu.gradients_by_feature import add_feature
from pyro_expfam.deq.cpu.observed_moments import moments

COPIED_AT_ONCE = 1024
"""Columns that all new rows copy before the next columns. Lanes side by side share lines of memory,
which a cache still holds after so many columns; rows are read in long pieces."""


@numba.njit(**OPTIONS)
def changed_lanes(row, loaded):
    """The lanes that have taken another row, which counts as loaded from here on."""
    count = 0
    for r in range(LANES):
        count += row[r] != loaded[r]
    changed = np.empty(count, np.int64)
    count = 0
    for r in range(LANES):
        if row[r] != loaded[r]:
            loaded[r], changed[count] = row[r], r
            count += 1
    return changed


@numba.njit(**OPTIONS)
def load_observed(observed, row, lanes, loaded):
    """Copies the observations of rows that lanes have taken to where the lanes read them.

    They are read once per evaluation, and in the table the rows of neighbouring lanes are apart.

    Args:
        observed: observations of all rows, ``(N, d)``.
        row: the row that a lane holds, ``(lanes,)``.
        lanes: observations of these rows, ``(d, stride)``.
        loaded: the rows that are there already.
    """
    changed = changed_lanes(row, loaded)
    width = observed.shape[1] if len(changed) else 0
    for begin in range(0, width, COPIED_AT_ONCE):
        end = min(begin + COPIED_AT_ONCE, width)
        # Indices that begin at zero need no check of their sign.
        to = lanes[begin:end]
        for r in changed:
            given, into = observed[row[r], begin:end], to[:, r]
            for i in range(end - begin):
                into[i] = given[i]


@numba.njit(**OPTIONS)
def evaluate_observed(table, row, z, sums, information, work):
    """As ``evaluate``, with slopes in place of means."""
    whole_registers()
    # Taking an array out of a tuple inside the loops costs more than the work on it.
    design, offset, weights = table.design, table.offset, table.weights
    memory, panel, y, loaded = work
    load_observed(table.observed, row, y, loaded)
    rows, exponent_rows, intercept = design.rows, design.exponent_rows, design.exponent_intercept
    size, law, ones, unit = design.size, design.law, design.ones, design.unit
    exponent, slope, curvature = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    begin_sums(design.precision, sums, information)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(exponent_rows, intercept, offset, unit, begin, count, row, z, exponent)
        for c in range(count):
            i = begin + c
            moments(law, size[i], exponent[c], y[i], slope[c], curvature[c])
            if len(weights):
                weigh(weights, i, row, slope[c], curvature[c])
        load_panel(rows, ones, ones, begin, count, panel)
        add_group(panel, slope, curvature, count, sums, information)


@numba.njit(**OPTIONS)
def add_observed(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, offset, weights = table.design, table.offset, table.weights
    memory, _, y, loaded = work
    load_observed(table.observed, row, y, loaded)
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, unit, size, law = design.loading, design.unit, design.size, design.law
    exponent, slope, curvature, along = memory[0], memory[1], memory[2], memory[3]
    for i in range(total.shape[1]):
        exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
        moments(law, size[i], exponent, y[i], slope, curvature)
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
