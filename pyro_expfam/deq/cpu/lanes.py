"""Rows in flight: a lane of the processor's vectors holds a row, and then takes the next one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS
from pyro_expfam.deq.cpu.dispatch import working_memory
from pyro_expfam.deq.cpu.evaluation import LANES, STRIDE
from pyro_expfam.deq.cpu.linear_algebra import factor_memory, solve_lanes
from pyro_expfam.deq.cpu.registers import (
    ABREAST,
    BYTES,
    everywhere_abreast,
    less_product,
    load_abreast,
    minus,
    plus_product,
    store,
)

NUMBERS = 7
"""Numbers of a step on trial."""

AGREEMENT = 0
"""The first of them: the score at the latents evaluated last, times the direction of the step."""


class CpuRows(NamedTuple):
    """What the kernel reads of rows.

    Attributes:
        statistic: ``T(y) W`` with entry weights applied, ``(N, l)``.
        start: latents to start from, ``(N, l)``.
    """

    statistic: Any
    start: Any


class Result(NamedTuple):
    """Where the kernel writes, row by row: as :class:`~pyro_expfam.deq.Solution`."""

    value: Any
    converged: Any
    num_iter: Any
    residual: Any


class Lanes(NamedTuple):
    """The rows in flight and their state; the last dimension runs over the lanes.

    Attributes:
        row: the row that a lane holds; any row for an idle lane.
        num_iter: evaluations of that row so far, or -1 in an idle lane.
        statistic: its ``T(y) W``.
        trial: the latents to evaluate next, padded like the loading.
        sums: of means times loadings there.
        information: its packed lower triangle there, ``(l (l + 1) / 2, stride)``.
        factor: memory for factors of the information.
        resolved: whether the format has the digits to resolve the information.
        score: the score there.
        newest: the direction there.
        step: where the step on trial starts, and its direction, ``(2, l, lanes)``.
        numbers: numbers of the step on trial, :data:`NUMBERS` rows. The first is the agreement,
            and a kernel has names of its own for the others.
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


@numba.njit(**OPTIONS)
def empty_lanes(table, size, row):
    """Idle lanes for rows of a table with some number of latents; ``row`` is any row."""
    packed_size, loading = size * (size + 1) // 2, table.design.loading
    dtype = loading.dtype
    vectors = np.zeros((4, size, LANES), dtype)
    return Lanes(
        np.full(LANES, row),
        np.full(LANES, -1),
        vectors[0],
        np.zeros((len(loading), LANES), dtype),
        vectors[1],
        np.zeros((packed_size, STRIDE), dtype),
        factor_memory(size, loading),
        np.zeros(LANES, np.bool_),
        vectors[2],
        vectors[3],
        np.zeros((2, size, LANES), dtype),
        np.zeros((NUMBERS, LANES), dtype),
        working_memory(table, size),
    )


@numba.njit(**INLINED)
def load_row(start, statistics, row, trial, statistic, r):
    """Puts a row at its start into a lane."""
    for k in range(len(statistic)):
        trial[k, r] = start[row, k]
        statistic[k, r] = statistics[row, k]


@numba.njit(**OPTIONS)
def find_directions(precision, smallest_pivot, lanes):
    """Score, agreement and the next direction of all lanes."""
    statistic, sums, trial = lanes.statistic, lanes.sums, lanes.trial
    direction, numbers, scores = lanes.step[1], lanes.numbers, lanes.score
    # Loops over so many arrays do not go through vectors of the processor by themselves.
    for r in range(0, LANES, ABREAST * BYTES // scores.itemsize):
        agreement = everywhere_abreast(scores.dtype.type(0))
        weight = everywhere_abreast(scores.dtype.type(precision))
        for k in range(len(scores)):
            score = minus(load_abreast(statistic, k, r), load_abreast(sums, k, r))
            score = less_product(score, weight, load_abreast(trial, k, r))
            store(scores, k, r, score)
            agreement = plus_product(agreement, score, load_abreast(direction, k, r))
        store(numbers, AGREEMENT, r, agreement)
    solve_lanes(
        lanes.information, lanes.score, smallest_pivot, lanes.newest, lanes.resolved, lanes.factor
    )
