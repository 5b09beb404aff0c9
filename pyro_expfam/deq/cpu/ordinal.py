r"""Scores and information of ordered answers for many rows at once, compiled by Numba.

Let :math:`t = e^{-\eta}`, and let :math:`a = e^{c_{y + 1}} t` and :math:`b = e^{c_y} t` be the odds
at the cut points around an answer. The slope of its loss and the curvature are

.. math:: \frac{1}{1 + a} - \frac{b}{1 + b} = \frac{1 - a b}{(1 + a)(1 + b)}, \qquad
          \frac{a}{(1 + a)^2} + \frac{b}{(1 + b)^2},

which takes one exponential and one division. The exponentials of the cut points around the answers
of a row are looked up once, when a lane takes the row.
"""

from __future__ import annotations

from functools import partial

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.cpu_table import CpuTable, dot, dots
from pyro_expfam.deq.cpu.evaluation import (
    GROUP,
    LANES,
    SHARED,
    STRIDE,
    add_group,
    begin_sums,
    exponents,
    linear_predictors,
    load_panel,
    panel_memory,
    weigh,
)
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.gradients_by_feature import add_feature
from pyro_expfam.deq.cpu.observed import COPIED_AT_ONCE, changed_lanes
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, in_threads, spans
from pyro_expfam.deq.cpu.working_response import regression, subtract_offset, weigh_response


@numba.njit(**OPTIONS)
def _load_answers(observed, odds, row, around, loaded):
    """Looks up the odds at the cut points around the answers of rows that lanes have taken."""
    last = odds.shape[1] - 2
    changed = changed_lanes(row, loaded)
    width = observed.shape[1] if len(changed) else 0
    for begin in range(0, width, COPIED_AT_ONCE):
        end = min(begin + COPIED_AT_ONCE, width)
        to, of_columns = around[2 * begin : 2 * end], odds[begin:end]
        for r in changed:
            given, into = observed[row[r], begin:end], to[:, r]
            for i in range(end - begin):
                # No answer of a table is out of range; no other may read beyond the array.
                answer = min(max(np.int64(given[i]), 0), last)
                into[2 * i], into[2 * i + 1] = of_columns[i, answer], of_columns[i, answer + 1]


@numba.njit(**INLINED)
def _moments(exponent, below, above, largest, slope, curvature):
    """Slopes and curvatures of a feature, for all lanes."""
    one = exponent.dtype.type(1)
    for r in range(LANES):
        t = power_of_two(exponent[r])
        a, b = above[r] * t, below[r] * t
        a = a if a < largest else largest
        b = b if b < largest else largest
        of_a, of_b = one + a, one + b
        inverse = one / (of_a * of_b)
        of_a, of_b = of_b * inverse, of_a * inverse
        slope[r] = (one - a * b) * inverse
        curvature[r] = a * of_a * of_a + b * of_b * of_b


@numba.njit(**OPTIONS)
def evaluate_ordinal(table, row, z, sums, information, work):
    """As ``evaluate``, with slopes in place of means."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    memory, panel, around, loaded = work
    _load_answers(table.observed, design.odds, row, around, loaded)
    rows, exponent_rows, intercept = design.rows, design.exponent_rows, design.exponent_intercept
    ones, unit, largest = design.ones, design.unit, design.largest
    exponent, slope, curvature = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    begin_sums(design.precision, sums, information)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(exponent_rows, intercept, offset, unit, begin, count, row, z, exponent)
        for c in range(count):
            i = begin + c
            _moments(exponent[c], around[2 * i], around[2 * i + 1], largest, slope[c], curvature[c])
            if len(weights):
                weigh(weights, i, row, slope[c], curvature[c])
        load_panel(rows, ones, ones, begin, count, panel)
        add_group(panel, slope, curvature, count, sums, information)


@numba.njit(**OPTIONS)
def add_ordinal(table, row, z, u, work, total):
    r"""Adds :math:`r u^\top - a z^\top` and :math:`-a` of all lanes, by feature."""
    design, offset, weights = table.design, table.offset, table.weights
    memory, _, around, loaded = work
    _load_answers(table.observed, design.odds, row, around, loaded)
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, unit, largest = design.loading, design.unit, design.largest
    exponent, slope, curvature, along = memory[0], memory[1], memory[2], memory[3]
    for i in range(total.shape[1]):
        exponents(exponent_loading, exponent_intercept, offset, unit, i, row, z, exponent)
        _moments(exponent, around[2 * i], around[2 * i + 1], largest, slope, curvature)
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


def memory_of_ordinal(table, latent_dim):
    """Shared memory, and the odds around the answers of the lanes; for compiled functions."""
    loading = table.design.loading
    return (
        np.zeros((SHARED, LANES), loading.dtype),
        panel_memory(latent_dim, loading),
        np.zeros((2 * loading.shape[1], STRIDE), loading.dtype),
        # No lane has a row yet.
        np.full(LANES, -1),
    )


def start_by_scores(table: CpuTable, latent_dim: int) -> np.ndarray:
    """Latents ``(N, l)`` after about one step from zero, by the scores of the answers there."""
    design = table.design
    num_rows, num_features = table.observed.shape
    dtype = table.observed.dtype
    W = design.loading[:latent_dim, :num_features].astype(np.float64)
    factor, typical = regression(
        W, design.weight.astype(np.float64), np.ones(num_features), float(design.precision)
    )
    start = np.empty((num_rows, latent_dim), dtype)
    work = partial(
        _regress,
        table.observed,
        table.offset,
        table.weights,
        design.response,
        np.ones(num_features, dtype),
        factor.astype(dtype),
        dtype.type(typical),
        start,
    )
    in_threads(work, spans(num_rows, num_features, ENTRIES_TO_READ))
    return start


@compiled_once
def _regress(y, offset, weights, responses, of_intercept, factor, typical, start, begin, end):
    latent_dim, response = len(factor), np.empty((1, y.shape[1]), y.dtype)
    last = responses.shape[1] - 1
    for s in range(begin, end):
        for i in range(y.shape[1]):
            response[0, i] = responses[i, min(max(np.int64(y[s, i]), 0), last)]
        if len(offset):
            subtract_offset(offset, s, of_intercept, response[0])
        if len(weights):
            weigh_response(weights, s, typical, response[0])
        for k in range(0, latent_dim - 1, 2):
            start[s, k], start[s, k + 1] = dots(response, 0, factor, k)
        if latent_dim % 2:
            start[s, latent_dim - 1] = dot(response, 0, factor, latent_dim - 1)
