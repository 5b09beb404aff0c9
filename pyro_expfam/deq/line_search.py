"""Fisher scoring with a line search, for losses without a certificate of decrease."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.curvature import Separate
from pyro_expfam.deq.positive_definite import cholesky, cholesky_solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.deq.solution import Solution

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that its slope promises."""

MOST_STEPS = 200
"""Rows of smooth losses take some ten steps. A row that goes back and forth across a kink never
comes to rest."""

LOST = 1e-10
"""Changes of the objective below this part of it may be rounding; then slopes decide."""


@torch.no_grad()
def search_rows(
    problem: LatentProblem, start: Tensor, tolerance: float, max_iter: int, out: Solution
) -> None:
    r"""Solves the rows of a problem without batch dimensions into ``out``, from ``start``.

    The direction is :math:`p = H^{-1} g` with the score ``g`` and a positive definite matrix ``H``:
    the second derivative of the objective, or the expected one where that is not positive definite.
    A step is halved until the objective decreases by a part of what its slope promises (Armijo's
    rule). Near the optimum the decrease is lost to rounding. There a step is also good if the slope
    at its end is what Armijo's rule implies for a quadratic function. A row has converged where
    :math:`\sqrt{g^\top H^{-1} g}`, computed at its latents, is at most the tolerance. All of this
    is done in float64.

    Source: Nocedal and Wright, *Numerical optimization* (2006), chapter 3; Hager and Zhang (2005),
    *A new conjugate gradient method with guaranteed descent and an efficient line search*, section
    2, for the rule by slopes.
    """
    max_iter = min(max_iter, MOST_STEPS)
    for tile in row_tiles(problem):
        part = Solution(*(x[tile] for x in out))
        _search(problem.rows(tile).double(), start[tile].double(), tolerance, max_iter, part)


def _search(
    problem: LatentProblem, z: Tensor, tolerance: float, max_iter: int, out: Solution
) -> None:
    index = torch.arange(len(z), device=z.device)
    objective, score, direction = _evaluate(problem, z)
    length = torch.ones_like(objective)
    for num_iter in range(1, max_iter + 1):
        decrement = (score * direction).sum(-1)
        residual = decrement.clamp(min=0).sqrt()
        leaving = (residual <= tolerance) | ~residual.isfinite() | (length < SHORTEST)
        if num_iter == max_iter:
            leaving = torch.ones_like(leaving)
        if bool(leaving.any()):
            _write(index, leaving, z, residual, tolerance, num_iter, out)
            staying = (~leaving).nonzero().squeeze(-1)
            if not len(staying):
                return
            index, problem = index[staying], problem.rows(staying)
            z, objective, score, direction = (x[staying] for x in (z, objective, score, direction))
            length, decrement, residual = (x[staying] for x in (length, decrement, residual))
        trial = z + length[:, None] * direction
        there, score_there, direction_there = _evaluate(problem, trial)
        slope = (score_there * direction).sum(-1)
        good = decreased(objective, there, length, decrement, slope)
        z, score, direction = (
            torch.where(good[:, None], new, old)
            for new, old in ((trial, z), (score_there, score), (direction_there, direction))
        )
        objective = torch.where(good, there, objective)
        length = torch.where(good, 1.0, length / 2)


def decreased(
    objective: Tensor,
    there: Tensor,
    length: Tensor,
    decrement: Tensor,
    slope: Tensor,
    rounding: float = LOST,
) -> Tensor:
    """Whether a step decreases the objective by enough of what its slope promises.

    Args:
        objective: the objective where the step begins.
        there: the objective where it ends.
        length: the length of the step, as a part of the direction.
        decrement: the score times the direction, where the step begins.
        slope: the same, with the score where it ends.
        rounding: changes of the objective below this part of it may be rounding.
    """
    # A comparison with NaN, from a step that overflowed, is False.
    lost = rounding * (1 + objective.abs())
    return (there <= objective - ENOUGH * length * decrement) | (
        (there <= objective + lost) & (slope >= (2 * ENOUGH - 1) * decrement)
    )


SHORTEST = 1e-12
"""Where so short a step brings no decrease, none will."""


def _evaluate(problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective, score, and the direction of Newton's method or Fisher scoring, at ``(N, l)``."""
    eta = problem.predictor(z)
    loss, score, information = problem.family.loss_score_information(eta, problem.y)
    objective = problem.prior.objective(z) + problem.weighted_losses(loss).sum(-1)
    score = problem.map.transpose(problem.weighted(score)) + problem.prior.score(z)
    prior = problem.prior_information()
    curvature = problem.curvature(eta)
    if isinstance(curvature, Separate):
        of_table = problem.map.gram(problem.weighted(information))
    else:
        of_table = curvature.gram()
    factor, _ = cholesky(of_table + prior)
    if not problem.family.is_convex:
        # Fisher scoring converges linearly here, and Newton's method quadratically.
        observed, exists = cholesky(problem.map.gram(problem.curvatures(eta)) + prior)
        factor = torch.where(exists[..., None, None], observed, factor)
    return objective, score, cholesky_solve(factor, score)


def _write(
    index: Tensor,
    leaving: Tensor,
    z: Tensor,
    residual: Tensor,
    tolerance: float,
    num_iter: int,
    out: Solution,
) -> None:
    where = index[leaving]
    out.value[where] = z[leaving].to(out.value.dtype)
    out.residual[where] = residual[leaving].to(out.residual.dtype)
    out.converged[where] = residual[leaving] <= tolerance
    out.num_iter[where] = num_iter
