"""One solve of all rows of the Bernoulli table against the solvers of torchdeq."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from paper_data import LATENT_DIM, PRECISION, paper_table
from timing import median_seconds_in_turns
from torch import Tensor
from torchdeq.solver.anderson import anderson_solver
from torchdeq.solver.broyden import broyden_solver

import pyro_expfam as pef

SCORE_TOLERANCE = 1e-4
STEP_TOLERANCE = SCORE_TOLERANCE / PRECISION
"""The score is the precision times the step of the fixed-point iteration."""

PACKAGE = "pyro-expfam"

Solve = Callable[[], Tensor]


class SolveResult(NamedTuple):
    """What a solver made of all rows; without seconds where it raised an error."""

    loading_factor: float
    solver: str
    seconds: float | None
    unsolved: int
    largest_score: float


class Contest(NamedTuple):
    """The settings in which the solvers of torchdeq meet a loading."""

    loading_factor: float
    broyden: dict[str, dict[str, Any]]
    anderson: dict[str, dict[str, Any]]


CONTESTS = (
    Contest(
        1.0,
        {
            "Broyden, 50 iterations": {"max_iter": 50},
            "Broyden with line search, 50 iterations": {"max_iter": 50, "ls": True},
            "Broyden with line search, 150 iterations": {"max_iter": 150, "ls": True},
        },
        {
            "Anderson, window 5": {"m": 5},
            "Anderson, window 5, ridge 0.01, damping 0.3": {"m": 5, "lam": 1e-2, "tau": 0.3},
            "Anderson, window 2, damping 0.2": {"m": 2, "tau": 0.2},
        },
    ),
    Contest(
        0.3,
        {
            "Broyden": {},
            "Broyden with line search": {"ls": True},
        },
        {
            "Anderson, window 5": {"m": 5},
            "Anderson, window 5, ridge 0.01, damping 0.3": {"m": 5, "lam": 1e-2, "tau": 0.3},
            "Anderson, window 2, damping 0.2": {"m": 2, "tau": 0.2},
        },
    ),
)
"""Anderson's settings: the paper's window as it comes, the fastest of those that solve every row
with that window, and the fastest of any window. They come from a search over windows 2 to 6,
ridges 1e-4, 0.01 and 1, and dampings 1, 0.5, 0.3 and 0.2, at the smaller loading."""

ANDERSON_TOLERANCE = 0.15 * STEP_TOLERANCE
"""Anderson returns the map of the iterate whose step it tests, and that step is the longer."""


def benchmark_solving(repeats: int) -> Iterator[SolveResult]:
    """Solves with the generating loading and with a smaller one, by every solver in turn."""
    table = paper_table("Bernoulli")
    for contest in CONTESTS:
        W = contest.loading_factor * table.loading
        works = {PACKAGE: partial(package_solve, table.y, W)}
        for name, settings in contest.broyden.items():
            works[name] = partial(
                torchdeq_solve, broyden_solver, table.y, W, tol=0.9 * STEP_TOLERANCE, **settings
            )
        for name, settings in contest.anderson.items():
            works[name] = partial(
                torchdeq_solve, anderson_solver, table.y, W, tol=ANDERSON_TOLERANCE, **settings
            )
        print(f"solving: loading x {contest.loading_factor:g}", flush=True)
        latents = {name: latents_or_none(work) for name, work in works.items()}
        alive = {name: work for name, work in works.items() if latents[name] is not None}
        seconds = median_seconds_in_turns(alive, repeats)
        for name, z in latents.items():
            result = judge(contest.loading_factor, name, seconds.get(name), z, table.y, W)
            print(f"solving: {result}", flush=True)
            yield result


def package_solve(y: Tensor, W: Tensor) -> Tensor:
    """All latents by Fisher scoring."""
    # At most 2.5 units of score to a unit of the tolerance: the root of the largest information.
    solver = pef.deq.FisherScoring(tol=0.4 * SCORE_TOLERANCE)
    family = pef.families.Bernoulli()
    return pef.solve_latents(family, y, W, W.new_zeros(len(W)), PRECISION, solver=solver).value


def torchdeq_solve(solver: Callable[..., Any], y: Tensor, W: Tensor, **settings: Any) -> Tensor:
    """All latents as a fixed point of equation (6), by a solver of torchdeq."""
    statistic_loading = y @ W / PRECISION

    def layer(z: Tensor) -> Tensor:
        return torch.addmm(statistic_loading, torch.sigmoid(z @ W.T), W, alpha=-1 / PRECISION)

    settings.setdefault("max_iter", 100)
    return solver(layer, y.new_zeros(len(y), LATENT_DIM), **settings)[0]


def latents_or_none(work: Solve) -> Tensor | None:
    """The latents, or None where the solver stops with a singular matrix."""
    try:
        return work()
    except torch.linalg.LinAlgError:
        return None


def judge(
    loading_factor: float,
    solver: str,
    seconds: float | None,
    z: Tensor | None,
    y: Tensor,
    W: Tensor,
) -> SolveResult:
    """Counts the rows that are not solved, by their scores in float64."""
    if z is None:
        return SolveResult(loading_factor, solver, None, len(y), torch.inf)
    z, y, W = z.double(), y.double(), W.double()
    score = ((y - torch.sigmoid(z @ W.T)) @ W - PRECISION * z).norm(dim=1)
    # A comparison with NaN is False.
    unsolved = int((~(score <= SCORE_TOLERANCE)).sum())
    return SolveResult(loading_factor, solver, seconds, unsolved, float(score.max()))
