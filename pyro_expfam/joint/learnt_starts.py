"""Where joint fits start that learn parameters of a family: several places, followed in turn.

The joint objective of loadings, latents and sizes of counts has many minima. Where parameters are
known other minima are the best ones, so that starts are compared with the parameters free. The
evidence has few minima: in each of 20 tables of ten species of trees the spectral start led to the
best of seven, where the joint objective had a better one in 22 of 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from torch import Tensor

from pyro_expfam.joint.account import Start
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.learnt_parameters import LearntParametersProblem
from pyro_expfam.joint.spectral import with_effect_of
from pyro_expfam.joint.starts import (
    SMALL_TABLE,
    Named,
    Refine,
    Screened,
    best_first,
    default_num_starts,
    refined,
)

FIRST_SWEEPS = 16
"""Sweeps from every start before the best of them are followed further."""

FOLLOWED = 8
"""How many of the starts are followed until they come to rest."""

RANDOM_SCALES = (0.7, 1.5, 3.0)
"""Standard deviations of random loadings, in turn. Small loadings lead to where sizes explain what
latents could explain."""


def num_learnt_starts(problem: LearntParametersProblem) -> int:
    """How many starts a fit has by default: one of a large table, and under the evidence."""
    table = problem.table
    entries = table.num_rows * table.num_predictors
    if not isinstance(problem.known, JointProblem) or entries > SMALL_TABLE:
        return 1
    return default_num_starts(entries)


def learnt_starts(
    problem: LearntParametersProblem,
    latent_dim: int,
    num_starts: int,
    refine: Refine,
    is_over: Callable[[], bool],
) -> list[Screened]:
    """Starts that were followed for some sweeps, the best first.

    If one start alone is wanted, it is the one from the residuals, and is not followed.

    Args:
        problem: the objective.
        latent_dim: the number of latents ``l``.
        num_starts: how many starts to take.
        refine: goes on from given coefficients.
        is_over: whether to end before the next start.
    """
    first = problem.spectral_start(latent_dim)
    if num_starts == 1:
        return [Screened(Start("spectral", math.inf, False), first, None)]
    found: list[Screened] = []
    for kind, coefficients in _starts(problem, first, latent_dim, num_starts):
        if is_over() and found:
            break
        end, fit = refine(coefficients, None, FIRST_SWEEPS)
        found.append(Screened(Start(kind, fit.objective, fit.converged), end, fit.latents))
    return refined(best_first(found), FOLLOWED, refine, is_over)


def _starts(
    problem: LearntParametersProblem, first: Tensor, latent_dim: int, num_starts: int
) -> Iterator[Named]:
    """The spectral start, and its intercepts and parameters with random loadings."""
    yield "spectral", first
    theta, free = problem.parts(first)
    values, known = problem.values(free), theta[:, latent_dim:]
    # All processes of a fit start from the same place.
    seed = problem.table.processes.of_first(torch.initial_seed)
    generator = torch.Generator(device=theta.device).manual_seed(seed)
    for _, scale in zip(range(num_starts - 1), cycle(RANDOM_SCALES)):
        W = torch.randn(
            theta.shape[0], latent_dim, generator=generator, device=theta.device, dtype=theta.dtype
        )
        start = with_effect_of(problem.known, torch.cat([scale * W, known], 1), latent_dim)
        yield "random", problem.coefficients_of(start, values)
