"""Where fits start: at several places, of which the most promising is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.joint.account import Fit, Start
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.spectral import spectral_start_from, with_effect_of, without_latents
from pyro_expfam.joint.starts_together import StartsTogether
from pyro_expfam.joint.working_start import has_working_start, working_start

NUM_STARTS = ((1 << 13, 32), (1 << 15, 16), (1 << 20, 4))
"""Entries of a table, and the starts that it has by default if it has no more."""

FEWEST_STARTS = 2

SMALL_TABLE = 1 << 15
"""Entries of tables whose best starts are followed until they come to rest."""

SWEEPS_OF_SMALL, SWEEPS_OF_LARGE = 16, 4
"""Sweeps from every start of a small and of a large table before the worse half of the starts is
dropped. The better half is followed as long again."""

SAME = 1e-5
"""Objectives within this part of each other have led to the same place."""

REFINED, REFINING_SWEEPS = 4, 100
"""How many of the starts of a small table are followed until they come to rest, in so many sweeps
at most."""

RANDOM_SCALES = (0.3, 0.7, 1.5)
"""Standard deviations of random loadings, in turn."""

MOST_LATENTS = 1 << 27
"""The most latents of all starts together; beyond it starts are followed one by one."""


class Screened(NamedTuple):
    """A start with where it led.

    Attributes:
        start: the start.
        coefficients: the coefficients there.
        z: the latents there, or None if it was not followed.
    """

    start: Start
    coefficients: Tensor
    z: Tensor | None


Named = tuple[str, Tensor]
"""The kind of a start, and its coefficients."""

Refine = Callable[[Tensor, Tensor | None, int], tuple[Tensor, Fit]]
"""Coefficients and fit so many sweeps after given coefficients, and latents if there are any."""


def default_num_starts(num_entries: int) -> int:
    """How many starts a table of so many entries has, unless the user says it."""
    return next((starts for most, starts in NUM_STARTS if num_entries <= most), FEWEST_STARTS)


def screened_starts(
    problem: JointProblem,
    largest: JointProblem,
    latent_dim: int,
    num_starts: int,
    refine: Refine,
    is_over: Callable[[], bool],
) -> list[Screened]:
    """Starts that were followed for some sweeps, the best first.

    If one start alone is wanted, it is the one from the residuals, and is not followed.

    Args:
        problem: the joint objective on which starts are followed.
        largest: the joint objective of more rows, from whose residuals the first start is made.
        latent_dim: the number of latents ``l``.
        num_starts: how many starts to take.
        refine: goes on from given coefficients.
        is_over: whether to end before the next sweep.
    """
    starts = list(_starts(problem, largest, latent_dim, num_starts, is_over))
    if num_starts == 1:
        kind, coefficients = starts[0]
        return [Screened(Start(kind, math.inf, False), coefficients, None)]
    table, together = problem.table, MOST_LATENTS // max(1, problem.table.num_rows * latent_dim)
    is_small = table.num_rows * table.num_predictors <= SMALL_TABLE
    sweeps, fewest = (SWEEPS_OF_SMALL, REFINED) if is_small else (SWEEPS_OF_LARGE, 1)
    found = []
    for group in _groups(starts, max(1, together)):
        kinds, coefficients = [kind for kind, _ in group], torch.stack([x for _, x in group])
        of_group = StartsTogether(problem, coefficients, latent_dim)
        found += follow(of_group, kinds, sweeps, fewest, is_over)
    found = best_first(found)
    return refined(found, REFINED, refine, is_over) if is_small else found


def refined(
    found: list[Screened], count: int, refine: Refine, is_over: Callable[[], bool]
) -> list[Screened]:
    """The starts, the best first, after so many of the best have been followed to rest."""
    found = list(found)
    for place, screened in enumerate(found[:count]):
        if is_over():
            break
        end, fit = refine(screened.coefficients, screened.z, REFINING_SWEEPS)
        start = Start(screened.start.kind, fit.objective, fit.converged)
        found[place] = Screened(start, end, fit.latents)
    return best_first(found)


def _groups(starts: list[Named], size: int) -> Iterator[list[Named]]:
    for begin in range(0, len(starts), size):
        yield starts[begin : begin + size]


def follow(
    together: StartsTogether,
    kinds: list[str],
    sweeps: int,
    fewest: int,
    is_over: Callable[[], bool],
) -> list[Screened]:
    """Follows starts side by side, and the better half of them for as long again.

    Args:
        together: the starts.
        kinds: their kinds.
        sweeps: how many sweeps all are followed.
        fewest: how many are followed further at least.
        is_over: whether to end before the next sweep.
    """
    dropped: list[Screened] = []

    def found() -> list[Screened]:
        objectives = together.objectives.tolist()
        ends = zip(kinds, objectives, together.ends, together.latents, strict=True)
        return [Screened(Start(kind, end, False), x, z) for kind, end, x, z in ends]

    _sweep(together, sweeps, is_over)
    if len(kinds) > fewest:
        order = torch.argsort(together.objectives, stable=True).tolist()
        kept = sorted(order[: max(fewest, len(order) // 2)])
        dropped = [x for place, x in enumerate(found()) if place not in kept]
        together.keep(kept)
        kinds = [kinds[place] for place in kept]
        _sweep(together, sweeps, is_over)
    return found() + dropped


def _sweep(together: StartsTogether, most: int, is_over: Callable[[], bool]) -> None:
    for _ in range(most):
        if is_over():
            return
        together.sweep()


def best_first(found: list[Screened]) -> list[Screened]:
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


def _starts(
    problem: Objective,
    largest: Objective,
    latent_dim: int,
    num_starts: int,
    is_over: Callable[[], bool],
) -> Iterator[Named]:
    # In the residuals of few rows noise hides what is in the residuals of many.
    known = without_latents(largest)
    yield "spectral", spectral_start_from(largest, known, latent_dim)
    num_random = num_starts - 1
    # It takes half a dozen passes over the table, and random starts take none.
    if num_random and has_working_start(problem) and not is_over():
        yield "working", working_start(problem, known, latent_dim)
        num_random -= 1
    # All processes of a fit start from the same place.
    seed = problem.table.processes.of_first(torch.initial_seed)
    generator = torch.Generator(device=known.device).manual_seed(seed)
    like: Any = {"device": known.device, "dtype": known.dtype}
    for _, scale in zip(range(num_random), cycle(RANDOM_SCALES)):
        W = torch.randn(len(known), latent_dim, generator=generator, **like)
        start = torch.cat([scale * W, known], 1)
        yield "random", with_effect_of(problem, start, latent_dim)
