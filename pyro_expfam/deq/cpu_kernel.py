"""Fisher scoring of many rows at once in the registers of a CPU, compiled by Numba.

Its iterations are those of :class:`~pyro_expfam.deq.FisherScoring`. They take turns over lanes,
each of which holds a row: all lanes step through the features together, so that every operation
is one on vectors of the processor, and a lane whose row is done takes the next one. Nothing of
size rows x features is written.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu_exponential import power_of_two

LANES = 128
"""Rows in flight: at 64 the loops' overhead shows, at 256 the lanes leave the fastest cache."""

GROUP = 4
"""Features that are summed before they are added up, which saves loads and digits."""

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
_INLINED = {"forceinline": True, **_OPTIONS}


class Design(NamedTuple):
    """What is the same for all rows of a table.

    Features are padded to a multiple of :data:`GROUP` and latents to an even number, with zeros.

    Attributes:
        loading: transposed.
        exponent_loading: the loading times ``unit``, which makes natural parameters exponents of
            two: the rate, or the odds against one of two outcomes, is two to their power.
        exponent_intercept: the intercept times ``unit``.
        unit: that factor.
        largest_exponent: beyond it a rate is infinite.
        centre: what is subtracted from a logistic mean.
        mean_loading: the loading times what the mean is then multiplied by.
        products: products of pairs of the loading's rows, times what the product of a logistic
            variable's probabilities is multiplied by, ``(l (l + 1) / 2, features)``.
        exponential: whether the activation is the exponential in place of a logistic one.
        precision: precision of the latents.
    """

    loading: Any
    exponent_loading: Any
    exponent_intercept: Any
    unit: Any
    largest_exponent: Any
    centre: Any
    mean_loading: Any
    products: Any
    exponential: bool
    precision: Any


class Table(NamedTuple):
    """What the kernel reads: rows of a problem, and what is the same for all of them.

    Attributes:
        design: what is the same for all of them.
        self_concordance: the most by which a log variance changes with the natural parameter.
        rate: the most by which it changes along a unit vector of latents.
        statistic_loading: ``T(y) W`` with entry weights applied, ``(N, l)``.
        offset: known part of the natural parameters, ``(N, d)``, or without rows.
        weights: entry weights, ``(N, d)``, or without rows.
        start: latents to start from, ``(N, l)``.
    """

    design: Design
    self_concordance: Any
    rate: Any
    statistic_loading: Any
    offset: Any
    weights: Any
    start: Any


class Rules(NamedTuple):
    """When to step and to stop, as in :mod:`pyro_expfam.deq.fisher_scoring`."""

    tolerance: Any
    safe_change: Any
    last_step: Any
    eager_change: Any
    smallest_pivot: Any
    shorten_unresolved: bool
    max_iter: int


class Result(NamedTuple):
    """Where the kernel writes, row by row: as :class:`~pyro_expfam.deq.Solution`."""

    value: Any
    converged: Any
    num_iter: Any
    residual: Any


# ---------------------------------------------------------------------------- evaluation


@numba.njit(**_INLINED)
def _exponential_moments(exponent, largest, mean, variance):  # type: ignore[no-untyped-def]
    for r in range(LANES):
        rate = power_of_two(exponent[r])
        rate = rate if exponent[r] <= largest else exponent[r] * np.inf
        mean[r], variance[r] = rate, rate


@numba.njit(**_INLINED)
def _logistic_moments(exponent, centre, mean, variance):  # type: ignore[no-untyped-def]
    one = exponent.dtype.type(1)
    for r in range(LANES):
        odds = power_of_two(exponent[r])
        likelihood = one / (one + odds)
        mean[r] = likelihood - centre
        # Of the odds first: where they are largest, the square of the other would vanish.
        variance[r] = odds * likelihood * likelihood


@numba.njit(**_INLINED)
def _exponents(loading, intercept, offset, unit, i, row, z, exponent):  # type: ignore[no-untyped-def]
    w0, w1, constant = loading[0, i], loading[1, i], intercept[i]
    for r in range(LANES):
        exponent[r] = constant + w0 * z[0, r] + w1 * z[1, r]
    for k in range(2, loading.shape[0], 2):
        w0, w1 = loading[k, i], loading[k + 1, i]
        for r in range(LANES):
            exponent[r] += w0 * z[k, r] + w1 * z[k + 1, r]
    if len(offset):
        # Beyond the last feature the loading is zero, and nothing comes of the entry.
        column = min(i, offset.shape[1] - 1)
        for r in range(LANES):
            exponent[r] += unit * offset[row[r], column]


@numba.njit(**_INLINED)
def _weigh(weights, i, row, mean, variance):  # type: ignore[no-untyped-def]
    column = min(i, weights.shape[1] - 1)
    for r in range(LANES):
        weight = weights[row[r], column]
        mean[r] *= weight
        variance[r] *= weight


@numba.njit(**_OPTIONS)
def _evaluate(table, lanes):  # type: ignore[no-untyped-def]
    """Sums over the features of all lanes: of means times loadings, and the information."""
    # To take an array out of a tuple inside the loops would cost more than what is done with it.
    design, offset, weights = table.design, table.offset, table.weights
    exponent_loading, exponent_intercept = design.exponent_loading, design.exponent_intercept
    loading, products, unit = design.mean_loading, design.products, design.unit
    is_exponential, centre = design.exponential, design.centre
    largest = design.largest_exponent
    row, trial, sums, information = lanes.row, lanes.trial, lanes.sums, lanes.information
    exponent, mean, variance = lanes.work[0], lanes.work[1 : 1 + GROUP], lanes.work[1 + GROUP :]
    sums[:] = 0
    information[:] = 0
    for k in range(len(sums)):
        information[k * (k + 3) // 2, :] = design.precision
    for begin in range(0, loading.shape[1], GROUP):
        for c in range(GROUP):
            i = begin + c
            _exponents(exponent_loading, exponent_intercept, offset, unit, i, row, trial, exponent)
            if is_exponential:
                _exponential_moments(exponent, largest, mean[c], variance[c])
            else:
                _logistic_moments(exponent, centre, mean[c], variance[c])
            if len(weights):
                _weigh(weights, i, row, mean[c], variance[c])
        _add_products(sums, loading, begin, mean)
        _add_products(information, products, begin, variance)


@numba.njit(**_OPTIONS)
def _add_products(sums, factors, begin, entries):  # type: ignore[no-untyped-def]
    """Adds a group of features up, two sums at a time, which share what they load."""
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


# ---------------------------------------------------------------------------- iteration


class _Lanes(NamedTuple):
    """The rows in flight and what is known of them: the last dimension is that of the lanes.

    Attributes:
        row: the row that a lane holds; without one, any row.
        num_iter: evaluations of that row so far, or -1 in a lane without one.
        statistic: its ``T(y) W``.
        trial: the latents to evaluate next, padded like the loading.
        sums: of means times loadings there.
        information: its packed lower triangle there.
        factor: of the information.
        resolved: whether the format has the digits to resolve the information.
        score: the score there.
        newest: the direction there.
        step: where the step on trial starts, and its direction, ``(2, l, lanes)``.
        numbers: of the step on trial, in the order of :data:`DECREMENT` and the names below it.
        work: natural parameters, means and variances of a group of features.
    """

    row: Any
    num_iter: Any
    statistic: Any
    trial: Any
    sums: Any
    information: Any
    factor: Any
    resolved: Any
    score: Any
    newest: Any
    step: Any
    numbers: Any
    work: Any


DECREMENT, SQUARED, LENGTH, AGREEMENT = 0, 1, 2, 3
"""Score times direction where the step starts, the squared norm of the direction, the length of
the step as a part of the direction, and the score where the step ends times the direction."""


def compiled_once(function: Any) -> Any:
    """Compiles a function and keeps the result on disk, where there is a place to write."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        return numba.njit(**_OPTIONS)(function)


@compiled_once
def solve(table, rules, result, begin, end):  # type: ignore[no-untyped-def]
    """Solves the rows from ``begin`` to ``end`` of a table into a result."""
    lanes = _empty_lanes(table, begin)
    row, num_iter, trial, step, numbers = (
        lanes.row,
        lanes.num_iter,
        lanes.trial,
        lanes.step,
        lanes.numbers,
    )
    score, newest, information, resolved = (
        lanes.score,
        lanes.newest,
        lanes.information,
        lanes.resolved,
    )
    statistic, start, statistics = lanes.statistic, table.start, table.statistic_loading
    loading, self_concordance, rate = table.design.loading, table.self_concordance, table.rate
    value, converged, evaluations, residual = result
    is_exponential = table.design.exponential
    following, active = begin, 0
    for r in range(LANES):
        if following < end:
            row[r], num_iter[r] = following, 0
            _load(start, statistics, following, trial, statistic, r)
            following, active = following + 1, active + 1
    while active:
        _evaluate(table, lanes)
        _find_directions(table, rules, lanes)
        for r in range(LANES):
            if num_iter[r] < 0:
                continue
            num_iter[r] += 1
            done, stuck = False, False
            if num_iter[r] == 1 or _decreased(loading, self_concordance, rules, step, numbers, r):
                if rules.shorten_unresolved and not resolved[r]:
                    _shorten_direction(information, score, newest, r)
                    resolved[r] = True
                _take(trial, score, newest, step, numbers, r)
                # The change is at most the rate times the norm, which costs less.
                if is_exponential and rate * rate * numbers[SQUARED, r] > rules.eager_change**2:
                    _damp(loading, self_concordance, rules.eager_change, step, numbers, r)
                stuck = not resolved[r]
                done = not stuck and _is_last(rules, rate, numbers, r)
            else:
                _shorten(loading, self_concordance, step, numbers, r)
            if not (done or stuck or num_iter[r] >= rules.max_iter):
                for k in range(len(score)):
                    trial[k, r] = step[0, k, r] + numbers[LENGTH, r] * step[1, k, r]
                continue
            s = row[r]
            for k in range(len(score)):
                value[s, k] = step[0, k, r]
                # A step that is not certain to be the last may not be good: stay before it.
                if done:
                    value[s, k] += step[1, k, r]
            residual[s] = math.sqrt(max(numbers[DECREMENT, r], 0))
            if done:
                residual[s] *= math.sqrt(numbers[SQUARED, r]) * rules.last_step * rate
            converged[s], evaluations[s] = done, num_iter[r]
            if following < end:
                row[r], num_iter[r] = following, 0
                _load(start, statistics, following, trial, statistic, r)
                following += 1
            else:
                num_iter[r] = -1
                active -= 1


@numba.njit(**_OPTIONS)
def _empty_lanes(table, row):  # type: ignore[no-untyped-def]
    size, dtype = table.start.shape[1], table.start.dtype
    vectors = np.zeros((4, size, LANES), dtype)
    packed = np.zeros((2, size * (size + 1) // 2, LANES), dtype)
    return _Lanes(
        np.full(LANES, row),
        np.full(LANES, -1),
        vectors[0],
        np.zeros((table.design.loading.shape[0], LANES), dtype),
        vectors[1],
        packed[0],
        packed[1],
        np.zeros(LANES, np.bool_),
        vectors[2],
        vectors[3],
        np.zeros((2, size, LANES), dtype),
        np.zeros((4, LANES), dtype),
        np.zeros((1 + 2 * GROUP, LANES), dtype),
    )


@numba.njit(**_INLINED)
def _load(start, statistics, row, trial, statistic, r):  # type: ignore[no-untyped-def]
    for k in range(len(statistic)):
        trial[k, r] = start[row, k]
        statistic[k, r] = statistics[row, k]


@numba.njit(**_OPTIONS)
def _find_directions(table, rules, lanes):  # type: ignore[no-untyped-def]
    """Score, agreement and the next direction of all lanes."""
    agreement, direction = lanes.numbers[AGREEMENT], lanes.step[1]
    precision = table.design.precision
    agreement[:] = 0
    for k in range(len(lanes.score)):
        for r in range(LANES):
            score = lanes.statistic[k, r] - lanes.sums[k, r] - precision * lanes.trial[k, r]
            lanes.score[k, r] = score
            agreement[r] += score * direction[k, r]
    _factorise(lanes.information, rules.smallest_pivot, lanes.factor, lanes.resolved)
    _substitute(lanes.factor, lanes.score, lanes.newest)


@numba.njit(**_OPTIONS)
def _factorise(information, smallest_pivot, factor, resolved):  # type: ignore[no-untyped-def]
    """The factorisation ``L D L'`` of all lanes: unit lower ``L``, with ``D`` on its diagonal."""
    resolved[:] = True
    factor[:] = information
    size = int(math.sqrt(2 * len(information)))
    for i in range(size):
        row = i * (i + 1) // 2
        for j in range(i):
            column = j * (j + 1) // 2
            for k in range(j):
                for r in range(LANES):
                    factor[row + j, r] -= factor[row + k, r] * factor[column + k, r]
        # Until here the entries of the row carry the pivots of their columns.
        for j in range(i):
            pivot = j * (j + 3) // 2
            for r in range(LANES):
                carrying = factor[row + j, r]
                factor[row + j, r] = carrying / factor[pivot, r]
                factor[row + i, r] -= factor[row + j, r] * carrying
        for r in range(LANES):
            diagonal, pivot = information[row + i, r], factor[row + i, r]
            # A comparison with NaN is False.
            good = (pivot > 0) & (pivot >= smallest_pivot * diagonal) & (diagonal < np.inf)
            resolved[r] &= good


@numba.njit(**_OPTIONS)
def _substitute(factor, vector, solution):  # type: ignore[no-untyped-def]
    """The solutions of all lanes."""
    size = len(vector)
    for i in range(size):
        for r in range(LANES):
            solution[i, r] = vector[i, r]
        for j in range(i):
            for r in range(LANES):
                solution[i, r] -= factor[i * (i + 1) // 2 + j, r] * solution[j, r]
    for i in range(size - 1, -1, -1):
        for r in range(LANES):
            solution[i, r] /= factor[i * (i + 3) // 2, r]
        for j in range(i + 1, size):
            for r in range(LANES):
                solution[i, r] -= factor[j * (j + 1) // 2 + i, r] * solution[j, r]


@numba.njit(**_INLINED)
def _decreased(loading, self_concordance, rules, step, numbers, r):  # type: ignore[no-untyped-def]
    """Whether the objective is certain to have decreased."""
    # A comparison with NaN, from a step that overflowed, is False.
    if numbers[AGREEMENT, r] >= 0:
        return True
    length = numbers[LENGTH, r]
    change = length * _change(loading, self_concordance, step, r)
    if change <= rules.safe_change:
        return True
    allowed = 0.5 * length * _curvature_share(change) * numbers[DECREMENT, r]
    return numbers[AGREEMENT, r] >= -allowed


@numba.njit(**_INLINED)
def _curvature_share(change):  # type: ignore[no-untyped-def]
    if change < 1e-2:
        return 0.5 - change / 3
    return (1 - (1 + change) * math.exp(-change)) / (change * change)


@numba.njit(**_INLINED)
def _change(loading, self_concordance, step, r):  # type: ignore[no-untyped-def]
    """The largest change of a log variance along the direction of a lane."""
    largest = abs(loading[0, 0] * step[1, 0, r])
    for i in range(loading.shape[1]):
        eta = loading[0, i] * step[1, 0, r]
        for k in range(1, step.shape[1]):
            eta += loading[k, i] * step[1, k, r]
        largest = max(largest, abs(eta))
    return self_concordance * largest


@numba.njit(**_INLINED)
def _take(trial, score, newest, step, numbers, r):  # type: ignore[no-untyped-def]
    """Makes the latents evaluated last the start of the next step."""
    numbers[DECREMENT, r], numbers[SQUARED, r], numbers[LENGTH, r] = 0, 0, 1
    for k in range(len(score)):
        direction = newest[k, r]
        step[0, k, r], step[1, k, r] = trial[k, r], direction
        numbers[DECREMENT, r] += score[k, r] * direction
        numbers[SQUARED, r] += direction * direction


@numba.njit(**_INLINED)
def _shorten_direction(information, score, newest, r):  # type: ignore[no-untyped-def]
    """A direction beyond the digits of the format.

    The trace is no less than any eigenvalue, so that this step is sure to decrease the objective.
    """
    trace = 0 * score[0, r]
    for k in range(len(score)):
        trace += information[k * (k + 3) // 2, r]
    for k in range(len(score)):
        newest[k, r] = score[k, r] / trace


@numba.njit(**_INLINED)
def _damp(loading, self_concordance, eager_change, step, numbers, r):  # type: ignore[no-untyped-def]
    change = _change(loading, self_concordance, step, r)
    if change > eager_change:
        numbers[LENGTH, r] = math.log1p(change) / change


@numba.njit(**_INLINED)
def _is_last(rules, rate, numbers, r):  # type: ignore[no-untyped-def]
    """Whether the score at the end of a whole step is certain to be below the tolerance."""
    # In squares, which cost less than roots.
    change = rate * rate * numbers[SQUARED, r]
    small = change * numbers[DECREMENT, r] <= (rules.tolerance / rules.last_step) ** 2
    return small and change <= rules.safe_change**2 and numbers[LENGTH, r] == 1


@numba.njit(**_INLINED)
def _shorten(loading, self_concordance, step, numbers, r):  # type: ignore[no-untyped-def]
    if numbers[LENGTH, r] == 1:
        change = _change(loading, self_concordance, step, r)
        numbers[LENGTH, r] = math.log1p(change) / change
    else:
        numbers[LENGTH, r] *= 0.5
