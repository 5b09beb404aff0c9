"""Fisher scoring of many rows at once in the registers of a CPU, compiled by Numba.

The kernel takes the steps of :class:`~pyro_expfam.deq.FisherScoring`. Each lane of the processor's
vectors holds a row, and all lanes step through the features together. A lane whose row has
converged takes the next row. Nothing of size rows x features is written.
"""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
from torch import Tensor

from pyro_expfam.deq.cpu.any_table import rows_are_alike, table_to_solve
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.cpu_table import CpuTable
from pyro_expfam.deq.cpu.dispatch import sum_over_features
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.lanes import (
    AGREEMENT,
    CpuRows,
    Result,
    empty_lanes,
    find_directions,
    load_row,
)
from pyro_expfam.deq.cpu.observed_table import ObservedDesign
from pyro_expfam.deq.cpu.ordinal import start_by_scores
from pyro_expfam.deq.cpu.ordinal_table import OrdinalDesign
from pyro_expfam.deq.cpu.registers import (
    ABREAST,
    BYTES,
    chosen,
    everywhere,
    everywhere_abreast,
    larger_size,
    largest_lane,
    load,
    load_abreast,
    plus_product,
    store,
)
from pyro_expfam.deq.cpu.scalar_rules import (
    damped_length,
    descends,
    first_length,
    in_dtype,
    is_accepted,
    is_last,
    is_safe,
    leaves,
    needs_change,
    reach_after_failure,
    reach_after_step,
    residual,
    restarts,
)
from pyro_expfam.deq.cpu.start import INTERPOLATE, Grid, Warp, nodes, tangents, warp
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.working_response import start_by_regression
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules

ROWS_OF_A_GRID = 4_000
"""A grid of starts does not pay for fewer rows than this."""

FAR = 0.7
"""A row gives up its start from the grid, and starts from zero, if the first step may change a log
variance by more than this: from far above its root an exponential family takes many steps that each
change the log rate by 1. A corner of the grid may be a statistic that no table has, and its root
may lie anywhere."""

FAR_FROM_REGRESSION = 4.0
"""The same for a start by regression, whose first step is longer."""


def solve_rows(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves the rows of a problem, from latents ``start`` ``(N, l)``, into ``out``."""
    table, statistics = table_to_solve(problem)
    of_prior = None if problem.loc is None else problem.prior.linear_part()
    if of_prior is not None:
        statistics = statistics + of_prior.expand(len(statistics), -1).numpy()
    rules = rules.for_variance(bounded=problem.family.bounded_variance)
    kernel_rules = in_dtype(rules, statistics.dtype)
    if _is_worth_a_grid(problem, start) and rows_are_alike(table):
        first = _start_from_grid(table, statistics, kernel_rules)
        kernel_rules = in_dtype(rules._replace(far=FAR), statistics.dtype)
    elif isinstance(table.design, ObservedDesign) and start.stride(0) == 0:
        first = start_by_regression(table, problem.latent_dim)
        kernel_rules = in_dtype(rules._replace(far=FAR_FROM_REGRESSION), statistics.dtype)
    elif isinstance(table.design, OrdinalDesign) and start.stride(0) == 0:
        first = start_by_scores(table, problem.latent_dim)
        kernel_rules = in_dtype(rules._replace(far=FAR_FROM_REGRESSION), statistics.dtype)
    else:
        first = np.ascontiguousarray(start.numpy())
    rows = CpuRows(statistics, first)
    result = Result(*(field.numpy() for field in out[:4]))
    work = partial(solve, table, rows, kernel_rules, result)
    in_threads(work, spans(len(start), problem.num_features, ENTRIES_TO_SOLVE))


def _is_worth_a_grid(problem: LatentProblem, start: Tensor) -> bool:
    return (
        problem.offset is None
        and problem.weights is None
        # One start for all rows: the caller has not chosen a start per row.
        and start.stride(0) == 0
        and problem.latent_dim in INTERPOLATE
        and problem.num_rows >= ROWS_OF_A_GRID
    )


def _start_from_grid(table: CpuTable, statistics: np.ndarray, rules: StepRules) -> np.ndarray:
    """Starts of all rows, interpolated from the roots on a grid of statistics."""
    num_rows, latent_dim = statistics.shape
    rows = spans(num_rows, table.design.loading.shape[1], ENTRIES_TO_READ)
    place = statistics
    if table.design.exponential:
        counts = Warp.of(statistics)
        place = np.empty_like(statistics)
        in_threads(partial(warp, *counts, statistics, place), rows)
    grid = Grid.around(place)
    at = nodes(grid)
    if table.design.exponential:
        at = counts.statistics(at)
    zeros, count = np.zeros_like(at), np.zeros(len(at), np.int64)
    roots = Result(np.empty_like(at), np.empty(len(at), np.bool_), count, np.empty_like(at[:, 0]))
    solve(table, CpuRows(at, zeros), rules, roots, 0, len(at))
    start = np.empty_like(statistics)
    interpolate = INTERPOLATE[latent_dim]
    in_threads(partial(interpolate, *grid, tangents(grid, roots.value), place, start), rows)
    return start


DECREMENT, SQUARE, LENGTH, REACH, NEXT_DECREMENT, NEXT_SQUARE = 1, 2, 3, 4, 5, 6
"""Numbers of the step on trial beside the agreement, as :mod:`pyro_expfam.deq.step_rules` names
them, and two numbers of the step from the latents evaluated last."""


@compiled_once
def solve(table, rows, rules, result, begin, end):
    """Solves the rows from ``begin`` to ``end`` of a table into a result."""
    lanes = empty_lanes(table, rows.statistic.shape[1], begin)
    row, num_iter, trial, step, numbers = (
        lanes.row,
        lanes.num_iter,
        lanes.trial,
        lanes.step,
        lanes.numbers,
    )
    information, resolved, size = lanes.information, lanes.resolved, len(lanes.score)
    statistic, start, statistics = lanes.statistic, rows.start, rows.statistic
    design, work = table.design, lanes.work
    loading, self_concordance, rate = design.loading, design.self_concordance, design.rate
    value, converged, evaluations, left = result
    # Beyond the digits of float64 there are no more: there the direction is replaced.
    is_widest = loading.itemsize == 8
    # Whether the latents being evaluated are a start, which is accepted without a test.
    fresh = np.ones(LANES, np.bool_)
    flags = np.zeros((4, LANES), np.bool_)
    plain, taken, leaving, last = flags[0], flags[1], flags[2], flags[3]
    following, active = begin, 0
    for r in range(LANES):
        if following < end:
            row[r], num_iter[r] = following, 0
            load_row(start, statistics, following, trial, statistic, r)
            following, active = following + 1, active + 1
    while active:
        sum_over_features(table, row, trial, lanes.sums, information, work)
        find_directions(design.precision, rules.smallest_pivot, lanes)
        _measure_steps(rate, lanes)
        _take_plain_steps(rules, fresh, flags, lanes)
        for r in range(LANES):
            if plain[r] or num_iter[r] < 0:
                continue
            num_iter[r] += 1
            taken[r] = fresh[r] or descends(numbers[AGREEMENT, r])
            # A bound of the change needs no pass over the features.
            taken[r] = taken[r] or is_safe(numbers[SQUARE, r], numbers[LENGTH, r], rules)
            if not taken[r]:
                along = _change(loading, self_concordance, step[1], r)
                taken[r] = is_accepted(
                    numbers[AGREEMENT, r], numbers[LENGTH, r], along, numbers[DECREMENT, r], rules
                )
            if taken[r]:
                reach = np.inf
                if not fresh[r]:
                    reach = reach_after_step(numbers[REACH, r], numbers[LENGTH, r])
                lost = not resolved[r]
                if is_widest and lost:
                    _shorten_direction(rate, lanes, r)
                    resolved[r] = True
                numbers[DECREMENT, r] = numbers[NEXT_DECREMENT, r]
                numbers[SQUARE, r] = numbers[NEXT_SQUARE, r]
                if num_iter[r] == 1 and restarts(numbers[SQUARE, r], not lost, rules):
                    # Latents of zero, from wherever the step starts.
                    lanes.newest[:, r], trial[:, r], numbers[LENGTH, r] = 0, 0, 1
                    continue
                fresh[r] = False
                numbers[REACH, r], numbers[LENGTH, r] = reach, 1
                if needs_change(numbers[SQUARE, r], reach, rules):
                    along = _change(loading, self_concordance, lanes.newest, r)
                    numbers[LENGTH, r] = first_length(along, reach, rules)
            else:
                resolved[r] = True
                reach = reach_after_failure(numbers[REACH, r], numbers[LENGTH, r])
                numbers[REACH, r], numbers[LENGTH, r] = reach, damped_length(along, reach)
            last[r] = is_last(
                numbers[DECREMENT, r], numbers[SQUARE, r], numbers[LENGTH, r], resolved[r], rules
            )
            leaving[r] = leaves(last[r], resolved[r], num_iter[r], rules)
        _take_steps(taken, lanes)
        for r in range(LANES):
            if not leaving[r]:
                continue
            s = row[r]
            for k in range(size):
                value[s, k] = step[0, k, r]
                # A step that is not certain to be the last may not be good: stay before it.
                if last[r]:
                    value[s, k] += step[1, k, r]
            left[s] = residual(numbers[DECREMENT, r], numbers[SQUARE, r], last[r], rules)
            converged[s], evaluations[s] = last[r], num_iter[r]
            if following < end:
                row[r], num_iter[r], fresh[r] = following, 0, True
                load_row(start, statistics, following, trial, statistic, r)
                following += 1
            else:
                num_iter[r] = -1
                active -= 1


@numba.njit(**OPTIONS)
def _change(loading, self_concordance, directions, r):
    """The largest change of a log variance along the direction of a lane.

    Args:
        loading: the loading, transposed, with latents padded.
        self_concordance: the most by which a log variance changes with the linear predictor.
        directions: directions of all lanes, ``(l, lanes)``.
        r: the lane.
    """
    whole_registers()
    size, num_features, lanes = len(directions), loading.shape[1], BYTES // loading.itemsize
    wide, begin = ABREAST * lanes, 0
    zero = loading.dtype.type(0)
    most = everywhere(zero)
    if num_features >= wide:
        mosts = everywhere_abreast(zero)
        for block in range(0, num_features - wide + 1, wide):
            change = everywhere_abreast(zero)
            for k in range(size):
                direction = everywhere_abreast(directions[k, r])
                change = plus_product(change, direction, load_abreast(loading, k, block))
            mosts = larger_size(mosts, change)
            begin = block + wide
        most = larger_size(most, everywhere(largest_lane(mosts)))
    while begin < num_features and num_features >= lanes:
        # The last features may be looked at twice.
        place = min(begin, num_features - lanes)
        change = everywhere(zero)
        for k in range(size):
            direction = everywhere(directions[k, r])
            change = plus_product(change, direction, load(loading, k, place))
        most = larger_size(most, change)
        begin = place + lanes
    for i in range(begin, num_features):
        change = zero
        for k in range(size):
            change += directions[k, r] * loading[k, i]
        most = larger_size(most, everywhere(change))
    return self_concordance * largest_lane(most)


@numba.njit(**OPTIONS)
def _measure_steps(rate, lanes):
    """Numbers of the steps from the latents evaluated last, for all lanes."""
    whole_registers()
    decrement, square = lanes.numbers[NEXT_DECREMENT], lanes.numbers[NEXT_SQUARE]
    decrement[:] = 0
    square[:] = 0
    for k in range(len(lanes.score)):
        for r in range(LANES):
            direction = lanes.newest[k, r]
            decrement[r] += lanes.score[k, r] * direction
            square[r] += direction * direction
    for r in range(LANES):
        square[r] *= rate * rate


@numba.njit(**OPTIONS)
def _take_plain_steps(rules, fresh, flags, lanes):
    """Takes starts, and the whole steps that are certain to decrease the objective.

    All lanes are looked at at once.

    These are nearly all. They are left to the law of single rows if the length of the next step
    depends on the change along it, or if the information is not resolved.

    Args:
        rules: the rules.
        fresh: whether the latents evaluated are a start.
        flags: booleans ``(4, lanes)``, which are overwritten: whether a lane is done here, whether
            its step is taken, whether its row leaves, and whether its next step is the last.
        lanes: the rows in flight.
    """
    whole_registers()
    plain, taken, leaving, last = flags[0], flags[1], flags[2], flags[3]
    num_iter, resolved, numbers = lanes.num_iter, lanes.resolved, lanes.numbers
    agreement, decrement, square = numbers[AGREEMENT], numbers[DECREMENT], numbers[SQUARE]
    length, reach = numbers[LENGTH], numbers[REACH]
    next_decrement, next_square = numbers[NEXT_DECREMENT], numbers[NEXT_SQUARE]
    one, infinity = square.dtype.type(1), square.dtype.type(np.inf)
    for r in range(LANES):
        decreases = descends(agreement[r]) | is_safe(square[r], one, rules)
        whole = decreases & (length[r] == one) & (reach[r] == infinity)
        stays = (fresh[r] == 0) | (restarts(next_square[r], True, rules) == 0)
        knows = (needs_change(next_square[r], infinity, rules) == 0) & resolved[r]
        plain[r] = (num_iter[r] >= 0) & ((fresh[r] != 0) | whole) & stays & knows
        taken[r] = plain[r]
    for r in range(LANES):
        if not plain[r]:
            leaving[r], last[r] = False, False
            continue
        num_iter[r] += 1
        fresh[r] = False
        decrement[r], square[r] = next_decrement[r], next_square[r]
        reach[r], length[r] = infinity, one
        last[r] = is_last(decrement[r], square[r], one, True, rules)
        leaving[r] = leaves(last[r], True, num_iter[r], rules)


@numba.njit(**OPTIONS)
def _take_steps(taken, lanes):
    """Starts new steps from the latents evaluated last where the last step is taken.

    The latents to evaluate next are the ends of the steps on trial.
    """
    whole_registers()
    origins, directions = lanes.step[0], lanes.step[1]
    trial, newest, numbers = lanes.trial, lanes.newest, lanes.numbers
    for r in range(0, LANES, ABREAST * BYTES // trial.itemsize):
        length = load_abreast(numbers, LENGTH, r)
        for k in range(len(newest)):
            origin = load_abreast(trial, k, r)
            origin = chosen(taken, r, origin, load_abreast(origins, k, r))
            direction = load_abreast(newest, k, r)
            direction = chosen(taken, r, direction, load_abreast(directions, k, r))
            store(origins, k, r, origin)
            store(directions, k, r, direction)
            store(trial, k, r, plus_product(origin, length, direction))


@numba.njit(**OPTIONS)
def _shorten_direction(rate, lanes, r):
    """A direction beyond the digits of the format.

    The trace is no less than any eigenvalue, so that this step is sure to decrease the objective.
    """
    score, newest, numbers = lanes.score, lanes.newest, lanes.numbers
    trace, decrement, square = 0 * rate, 0 * rate, 0 * rate
    for k in range(len(score)):
        trace += lanes.information[k * (k + 3) // 2, r]
    for k in range(len(score)):
        newest[k, r] = score[k, r] / trace
        decrement += score[k, r] * newest[k, r]
        square += newest[k, r] * newest[k, r]
    numbers[NEXT_DECREMENT, r], numbers[NEXT_SQUARE, r] = decrement, square * rate * rate
