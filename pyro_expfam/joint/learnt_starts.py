"""Where joint fits start that learn parameters of a family: several places.

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
from pyro_expfam.joint.learnt_starts_together import LearntStartsTogether
from pyro_expfam.joint.spectral import with_effect_of
from pyro_expfam.joint.starts import (
    SMALL_TABLE,
    Named,
    Refine,
    Screened,
    best_first,
    default_num_starts,
    follow,
    refined,
)
from pyro_expfam.joint.table import Table

FIRST_SWEEPS = 16
"""Sweeps from every start, one after the other, before the best of them are followed further."""

SWEEPS = 24
"""Sweeps of starts side by side before the worse half of them is dropped. A sweep leads less far
than one of a fit, and costs as much for all starts as for one."""

MOST_ENTRIES = 1 << 20
"""The most entries of all starts that are followed side by side."""

FOLLOWED = 8
"""How many of the starts are followed until they come to rest."""

RANDOM_SCALES = (0.7, 1.5, 3.0)
"""Standard deviations of random loadings, in turn. Small loadings lead to where sizes explain what
latents could explain."""


def num_learnt_starts(problem: LearntParametersProblem) -> int:
    """How many starts a fit has by default: one of a large table, and under the evidence."""
    table = problem.table
    if not isinstance(problem.known, JointProblem) or not _is_small(table):
        return 1
    return default_num_starts(table.num_rows * table.num_predictors)


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
    starts = list(_starts(problem, first, latent_dim, num_starts))
    if _go_together(problem):
        found = _side_by_side(problem, latent_dim, starts, is_over)
    else:
        found = _in_turn(starts, refine, is_over)
    return refined(best_first(found), FOLLOWED, refine, is_over)


def _go_together(problem: LearntParametersProblem) -> bool:
    """Whether starts are followed side by side: in a small table, without units of columns.

    A unit moves all linear predictors of its column, against which the coefficients must move.
    """
    has_unit = any(x.is_unit for x in problem.parameters)
    return isinstance(problem.known, JointProblem) and not has_unit and _is_small(problem.table)


def _is_small(table: Table) -> bool:
    return table.num_rows * table.num_predictors <= SMALL_TABLE


def _side_by_side(
    problem: LearntParametersProblem,
    latent_dim: int,
    starts: list[Named],
    is_over: Callable[[], bool],
) -> list[Screened]:
    """Starts that were followed side by side, as many at once as have not too many entries."""
    table = problem.table
    at_once = max(1, MOST_ENTRIES // (table.num_rows * table.num_predictors))
    found: list[Screened] = []
    for begin in range(0, len(starts), at_once):
        kinds, coefficients = zip(*starts[begin : begin + at_once], strict=True)
        together = LearntStartsTogether(problem, torch.stack(coefficients), latent_dim)
        found += follow(together, list(kinds), SWEEPS, FOLLOWED, is_over)
    return found


def _in_turn(starts: list[Named], refine: Refine, is_over: Callable[[], bool]) -> list[Screened]:
    """Starts that were followed one after the other."""
    found: list[Screened] = []
    for kind, coefficients in starts:
        if is_over() and found:
            break
        end, fit = refine(coefficients, None, FIRST_SWEEPS)
        found.append(Screened(Start(kind, fit.objective, fit.converged), end, fit.latents))
    return found


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
