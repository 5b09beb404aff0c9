"""Where fits start: at several places, of which the most promising is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.joint.account import Start
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.spectral import fit_intercept, spectral_start_from
from pyro_expfam.joint.working_start import has_working_start, working_start

SMALL_TABLE, MEDIUM_TABLE = 1 << 13, 1 << 20
"""Entries of tables that start from SMALL_STARTS and MEDIUM_STARTS places by default."""

SMALL_STARTS, MEDIUM_STARTS, FEWEST_STARTS = 16, 4, 2

SCREENING_SWEEPS = 16
"""Sweeps from every start before the starts are compared."""

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
    problem: Objective, latent_dim: int, num_starts: int, follow: Follow
) -> list[Screened]:
    """Starts that were followed for some sweeps, the best first.

    If one start alone is wanted, it is the one from the residuals, and is not followed.

    Args:
        problem: the objective.
        latent_dim: the number of latents ``l``.
        num_starts: how many starts to take.
        follow: goes on from given coefficients.
    """
    starts = _starts(problem, latent_dim, num_starts)
    if num_starts == 1:
        kind, coefficients = next(starts)
        return [Screened(Start(kind, float("inf"), False), coefficients)]
    found = []
    for kind, coefficients in starts:
        end, objective = follow(coefficients, SCREENING_SWEEPS)
        found.append(Screened(Start(kind, objective, False), end))
    found = sorted(found, key=_objective)
    if problem.table.num_rows * problem.table.num_predictors > SMALL_TABLE:
        return found
    for place, screened in enumerate(found[:REFINED]):
        _, objective = follow(screened.coefficients, None)
        # The fit follows the best of them again, for its account.
        found[place] = screened._replace(start=Start(screened.start.kind, objective, True))
    return sorted(found, key=_objective)


def _objective(screened: Screened) -> float:
    # NaN comes last.
    value = screened.start.objective
    return value if value == value else float("inf")


def _starts(problem: Objective, latent_dim: int, num_starts: int) -> Iterator[tuple[str, Tensor]]:
    b = fit_intercept(problem)
    yield "spectral", spectral_start_from(problem, b, latent_dim)
    num_random = num_starts - 1
    if num_random and has_working_start(problem):
        yield "working", working_start(problem, b, latent_dim)
        num_random -= 1
    generator = torch.Generator(device=b.device).manual_seed(torch.initial_seed())
    for _ in range(num_random):
        W = torch.randn(len(b), latent_dim, generator=generator, device=b.device, dtype=b.dtype)
        yield "random", torch.cat([RANDOM_SCALE * W, b[:, None]], 1)
