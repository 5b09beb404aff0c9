"""Where fits start: at several places, of which the most promising is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.joint.account import Start
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.spectral import spectral_start_from, with_effect_of, without_latents
from pyro_expfam.joint.working_start import has_working_start, working_start

SMALL_TABLE, MEDIUM_TABLE = 1 << 13, 1 << 20
"""Entries of tables that start from SMALL_STARTS and MEDIUM_STARTS places by default."""

SMALL_STARTS, MEDIUM_STARTS, FEWEST_STARTS = 16, 4, 2

SCREENING_SWEEPS = 16
"""Sweeps from every start before the starts are compared."""

SAME = 1e-5
"""Objectives within this part of each other have led to the same place."""

REFINED = 4
"""How many of the starts of a small table are followed until they come to rest."""

RANDOM_SCALE = 0.7
"""The standard deviation of random loadings."""


class Screened(NamedTuple):
    """A start with the coefficients to which it led."""

    start: Start
    coefficients: Tensor


Follow = Callable[[Tensor, int | None], tuple[Tensor, float]]
"""Coefficients and objective so many sweeps after given coefficients, or, after None, at rest."""


def default_num_starts(num_entries: int) -> int:
    """How many starts a table of so many entries has, unless the user says it."""
    if num_entries <= SMALL_TABLE:
        return SMALL_STARTS
    return MEDIUM_STARTS if num_entries <= MEDIUM_TABLE else FEWEST_STARTS


def screened_starts(
    problem: Objective,
    latent_dim: int,
    num_starts: int,
    follow: Follow,
    is_over: Callable[[], bool],
) -> list[Screened]:
    """Starts that were followed for some sweeps, the best first.

    If one start alone is wanted, it is the one from the residuals, and is not followed.

    Args:
        problem: the objective.
        latent_dim: the number of latents ``l``.
        num_starts: how many starts to take.
        follow: goes on from given coefficients.
        is_over: whether there is no time for another start.
    """
    starts = _starts(problem, latent_dim, num_starts)
    if num_starts == 1:
        kind, coefficients = next(starts)
        return [Screened(Start(kind, float("inf"), False), coefficients)]
    found = []
    for kind, coefficients in starts:
        end, objective = follow(coefficients, SCREENING_SWEEPS)
        found.append(Screened(Start(kind, objective, False), end))
        if is_over():
            break
    found = _best_first(found)
    if problem.table.num_rows * problem.table.num_predictors > SMALL_TABLE:
        return found
    for place, screened in enumerate(found[:REFINED]):
        if is_over():
            break
        _, objective = follow(screened.coefficients, None)
        # The fit follows the best of them again, for its account.
        found[place] = screened._replace(start=Start(screened.start.kind, objective, True))
    return _best_first(found)


def _best_first(found: list[Screened]) -> list[Screened]:
    """Starts by their objectives, those that have led to the same one in the order given.

    Rounding, or how many processes hold the rows, must not decide between them.
    """
    values = [x.start.objective for x in found]
    values = [x if x == x else math.inf for x in values]  # NaN comes last.
    ranks, last = [0] * len(found), -math.inf
    rank = -1
    for place in sorted(range(len(found)), key=values.__getitem__):
        if not values[place] - last <= SAME * (1 + abs(values[place])):
            rank += 1
        ranks[place], last = rank, values[place]
    return [found[k] for k in sorted(range(len(found)), key=ranks.__getitem__)]


def _starts(problem: Objective, latent_dim: int, num_starts: int) -> Iterator[tuple[str, Tensor]]:
    known = without_latents(problem)
    yield "spectral", spectral_start_from(problem, known, latent_dim)
    num_random = num_starts - 1
    if num_random and has_working_start(problem):
        yield "working", working_start(problem, known, latent_dim)
        num_random -= 1
    # All processes of a fit start from the same place.
    seed = problem.table.processes.of_first(torch.initial_seed)
    generator = torch.Generator(device=known.device).manual_seed(seed)
    like: Any = {"device": known.device, "dtype": known.dtype}
    for _ in range(num_random):
        W = torch.randn(len(known), latent_dim, generator=generator, **like)
        start = torch.cat([RANDOM_SCALE * W, known], 1)
        yield "random", with_effect_of(problem, start, latent_dim)
