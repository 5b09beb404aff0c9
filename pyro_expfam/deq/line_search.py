"""Fisher scoring with a line search, for losses without a certificate of decrease."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq import search_rules
from pyro_expfam.deq.curvature import Separate
from pyro_expfam.deq.positive_definite import cholesky, cholesky_solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.deq.search_rules import MOST_STEPS, SearchRules
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules


@torch.no_grad()
def search_rows(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    r"""Solves the rows of a problem without batch dimensions into ``out``, from ``start``.

    The direction is :math:`p = H^{-1} g` with the score ``g`` and a positive definite matrix ``H``:
    the second derivative of the objective, or the expected one where that is not positive definite.
    Whether a step is taken, how long the next one is and when a row is done is the law of
    :mod:`~pyro_expfam.deq.search_rules`. All of this is done in float64.
    """
    searched = SearchRules.of(rules.tolerance, min(rules.max_iter, MOST_STEPS))
    for tile in row_tiles(problem):
        part = Solution(*(x[tile] for x in out))
        _search(problem.rows(tile).double(), start[tile].double(), searched, part)


def _search(problem: LatentProblem, z: Tensor, rules: SearchRules, out: Solution) -> None:
    index = torch.arange(len(z), device=z.device)
    objective, score, direction = _evaluate(problem, z)
    length = torch.ones_like(objective)
    stalled = torch.zeros_like(objective, dtype=torch.bool)
    for num_iter in range(1, rules.max_iter + 1):
        decrement = (score * direction).sum(-1)
        left = search_rules.left_of_score(decrement)
        leaving = stalled | search_rules.ends_search(left, length, num_iter, rules)
        if bool(leaving.any()):
            _write(index, leaving, z, left, num_iter, rules, out)
            staying = (~leaving).nonzero().squeeze(-1)
            if not len(staying):
                return
            index, problem = index[staying], problem.rows(staying)
            z, objective, score, direction = (x[staying] for x in (z, objective, score, direction))
            length, decrement = length[staying], decrement[staying]
        trial = z + length[:, None] * direction
        there, score_there, direction_there = _evaluate(problem, trial)
        agreement = (score_there * direction).sum(-1)
        taken = search_rules.has_decreased(objective, there, length, decrement, agreement, rules)
        z, score, direction = (
            torch.where(taken[:, None], new, old)
            for new, old in ((trial, z), (score_there, score), (direction_there, direction))
        )
        stalled = taken & search_rules.is_stalled(
            objective, there, decrement, (score * direction).sum(-1), num_iter + 1, rules
        )
        objective = torch.where(taken, there, objective)
        length = search_rules.next_length(taken, length)


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
    left: Tensor,
    num_iter: int,
    rules: SearchRules,
    out: Solution,
) -> None:
    where = index[leaving]
    out.value[where] = z[leaving].to(out.value.dtype)
    out.residual[where] = left[leaving].to(out.residual.dtype)
    out.converged[where] = search_rules.is_at_rest(left[leaving], num_iter, rules)
    out.num_iter[where] = num_iter
