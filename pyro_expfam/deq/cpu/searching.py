"""Newton's method with a line search, for many rows at once, compiled by Numba.

The kernel takes the steps of :mod:`~pyro_expfam.deq.line_search` where the information is positive
definite. Rows are in the lanes of the processor's vectors as in
:mod:`~pyro_expfam.deq.cpu.solving`. Everything is computed in float64, also for rows of float32
that :mod:`~pyro_expfam.deq.cpu.linked_rows` leaves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba.extending import overload
from torch import Tensor

from pyro_expfam.deq.cpu.any_table import as_cpu_table
from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.evaluation import (
    GROUP,
    LANES,
    add_group,
    begin_sums,
    linear_predictors,
    load_panel,
    weigh,
)
from pyro_expfam.deq.cpu.lanes import (
    AGREEMENT,
    CpuRows,
    Result,
    empty_lanes,
    find_directions,
    load_row,
)
from pyro_expfam.deq.cpu.observed import load_observed
from pyro_expfam.deq.cpu.outcomes import entry_losses
from pyro_expfam.deq.cpu.scalar_rules import (
    ends_search,
    has_decreased,
    in_dtype,
    is_at_rest,
    is_stalled,
    left_of_score,
    next_length,
)
from pyro_expfam.deq.cpu.searched_table import SearchedTable, evaluate_searched
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules

DECREMENT, OBJECTIVE, THERE, LENGTH = 1, 2, 3, 4
"""Numbers of the step on trial beside the agreement, as :mod:`pyro_expfam.deq.search_rules` names
them."""


def search_rows(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves the rows of a problem, from latents ``start`` ``(N, l)``, into ``out``."""
    table = as_cpu_table(problem)
    first = np.ascontiguousarray(start.numpy())
    linear = np.zeros(first.shape)
    of_prior = problem.prior.linear_part()
    if of_prior is not None:
        linear += of_prior.numpy()
    # The losses here have no kinks, so that a row may take all the steps that the solver allows.
    searched = SearchRules.of(rules.tolerance, rules.max_iter)
    result = Result(*(field.numpy() for field in out[:4]))
    rows = CpuRows(linear, first)
    # The information is certain to be positive definite, up to rounding.
    work = partial(search, table, rows, in_dtype(searched, linear.dtype), 0.0, result)
    in_threads(work, spans(len(start), problem.num_features, ENTRIES_TO_SOLVE))


@compiled_once
def search(table, rows, rules, smallest_pivot, result, begin, end):
    """Solves the rows from ``begin`` to ``end`` of a table into a result.

    A row whose information is not positive definite, by its smallest pivot, leaves unconverged.
    """
    lanes = empty_lanes(table, rows.statistic.shape[1], begin)
    row, num_iter, trial, step, numbers = (
        lanes.row,
        lanes.num_iter,
        lanes.trial,
        lanes.step,
        lanes.numbers,
    )
    statistic, start, statistics = lanes.statistic, rows.start, rows.statistic
    precision, resolved = table.design.precision, lanes.resolved
    value, converged, evaluations, left = result
    # Whether the latents being evaluated are a start, which is accepted without a test.
    fresh = np.ones(LANES, np.bool_)
    following, active = begin, 0
    for r in range(LANES):
        if following < end:
            row[r], num_iter[r] = following, 0
            load_row(start, statistics, following, trial, statistic, r)
            following, active = following + 1, active + 1
    while active:
        sum_losses(table, row, trial, numbers[THERE], lanes.sums, lanes.information, lanes.work)
        _add_prior(precision, statistic, trial, numbers[THERE])
        find_directions(precision, smallest_pivot, lanes)
        for r in range(LANES):
            if num_iter[r] < 0:
                continue
            num_iter[r] += 1
            taken = fresh[r] or has_decreased(
                numbers[OBJECTIVE, r],
                numbers[THERE, r],
                numbers[LENGTH, r],
                numbers[DECREMENT, r],
                numbers[AGREEMENT, r],
                rules,
            )
            before, objective = numbers[DECREMENT, r], numbers[OBJECTIVE, r]
            stalled = False
            if taken:
                _take(lanes, resolved[r], r)
                stalled = not fresh[r] and is_stalled(
                    objective,
                    numbers[OBJECTIVE, r],
                    before,
                    numbers[DECREMENT, r],
                    num_iter[r],
                    rules,
                )
            fresh[r] = False
            numbers[LENGTH, r] = next_length(taken, numbers[LENGTH, r])
            remaining = left_of_score(numbers[DECREMENT, r])
            ends = stalled or ends_search(remaining, numbers[LENGTH, r], num_iter[r], rules)
            if not ends:
                for k in range(step.shape[1]):
                    trial[k, r] = step[0, k, r] + numbers[LENGTH, r] * step[1, k, r]
                continue
            s = row[r]
            for k in range(step.shape[1]):
                value[s, k] = step[0, k, r]
            left[s] = remaining
            converged[s] = is_at_rest(remaining, num_iter[r], rules)
            evaluations[s] = num_iter[r]
            if following < end:
                row[r], num_iter[r], fresh[r] = following, 0, True
                load_row(start, statistics, following, trial, statistic, r)
                following += 1
            else:
                num_iter[r] = -1
                active -= 1


def sum_losses(
    table: Any, row: Any, z: Any, objective: Any, sums: Any, information: Any, work: Any
) -> None:
    """Sums over the features: losses, slopes times loadings, and the information."""
    raise NotImplementedError("only for compiled functions")


@overload(sum_losses, jit_options=INLINED)
def _sum_losses(table, row, z, objective, sums, information, work):
    function = evaluate_searched if table.instance_class is SearchedTable else _sum_linked
    return lambda table, row, z, objective, sums, information, work: function(
        table, row, z, objective, sums, information, work
    )


@numba.njit(**INLINED)
def _take(lanes, resolved, r):
    """Makes the latents evaluated last the start of the next step."""
    trial, score, newest = lanes.trial, lanes.score, lanes.newest
    step, numbers = lanes.step, lanes.numbers
    # A row without a direction leaves.
    decrement = 0.0 if resolved else np.nan
    for k in range(len(score)):
        step[0, k, r], step[1, k, r] = trial[k, r], newest[k, r]
        decrement += score[k, r] * newest[k, r]
    numbers[DECREMENT, r], numbers[OBJECTIVE, r] = decrement, numbers[THERE, r]


@numba.njit(**OPTIONS)
def _add_prior(precision, linear, z, objective):
    """Adds minus the log prior density of all lanes to their objectives."""
    for k in range(len(linear)):
        for r in range(LANES):
            objective[r] += z[k, r] * (0.5 * precision * z[k, r] - linear[k, r])


@numba.njit(**OPTIONS)
def _sum_linked(table, row, z, objective, sums, information, work):
    """As :func:`sum_losses`, of bits or counts under a link."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    memory, panel, y, loaded = work
    load_observed(table.observed, row, y, loaded)
    rows, size, law, ones = design.rows, design.size, design.law, design.ones
    intercept = design.exponent_intercept
    eta, slope, curvature = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    loss = np.empty(LANES)
    objective[:] = 0
    begin_sums(design.precision, sums, information)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(rows, intercept, offset, 1.0, begin, count, row, z, eta)
        for c in range(count):
            i = begin + c
            entry_losses(law, size[i], eta[c], y[i], loss, slope[c], curvature[c])
            if len(weights):
                weigh(weights, i, row, slope[c], curvature[c])
                weigh(weights, i, row, loss, eta[c])
            for r in range(LANES):
                objective[r] += loss[r]
        load_panel(rows, ones, ones, begin, count, panel)
        add_group(panel, slope, curvature, count, sums, information)
