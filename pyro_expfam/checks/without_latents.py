"""The likelihood of a table under independent columns, which latents should exceed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.maximum import coefficients_of, table_of, with_coefficients
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.joint import JointProblem
from pyro_expfam.joint.known_part import fit_known

MOST_STEPS = 100

AT_REST = 1e-9
"""Twice the gain in nats that a step may still promise over all columns."""


def likelihood_without_latents(problem: LatentProblem) -> float:
    """The largest log likelihood of a table whose columns have no latents.

    Arguments are as for :func:`log_probs_without_latents`.
    """
    return float(log_probs_without_latents(problem).sum())


@torch.no_grad()
def log_probs_without_latents(problem: LatentProblem) -> Tensor:
    """The largest log likelihood of each column under an intercept, and covariates if it has them.

    It is given by linear predictor, ``(d,)``; a categorical column has the sum of its levels.

    Offsets, weights and missing entries are as in the problem. Each column is fitted by Newton
    steps no longer than 1, or by one step where the loss is quadratic. A column of zeros has no
    maximum, but its likelihood is 1 up to rounding long before the last step.

    Args:
        problem: the problem of the latents, in double precision and without batch dimensions.
    """
    problem = replace(
        problem,
        map=Dense(torch.zeros_like(problem.b)[:, None]),
        b=_start(problem),
        loc=None,
        precision_factor=None,
        term=None,
    )
    if problem.covariates is not None:
        return _log_likelihood(_with_known_part(problem))
    longest = _longest_steps(problem)
    for _ in range(MOST_STEPS):
        score, information = _derivatives(problem)
        step = score / information.clamp(min=torch.finfo(score.dtype).tiny)
        step = torch.clamp(step, -longest, longest)
        problem = replace(problem, b=problem.b + step)
        if float((step * score).sum()) < AT_REST:
            break
    return _log_likelihood(problem)


def _with_known_part(problem: LatentProblem) -> LatentProblem:
    """The problem without latents at the best intercepts and coefficients of covariates."""
    start = coefficients_of(problem)
    flat = JointProblem(table_of(problem), problem.precision, 0.0, 0.0)
    known = fit_known(flat, start[:, 1:], MOST_STEPS, AT_REST)
    return with_coefficients(problem, torch.cat([start[:, :1], known], 1))


def _start(problem: LatentProblem) -> Tensor:
    """The fitted intercepts, which are nearer to any optimum than zero is."""
    farthest = 10 * _longest_steps(problem)
    return torch.clamp(problem.b, -farthest, farthest)


def _longest_steps(problem: LatentProblem) -> Tensor:
    """The longest step of each intercept, without a limit where the loss is quadratic, ``(d,)``.

    The mean of a Gaussian column may be thousands of units of its noise away from zero.
    """
    longest = torch.ones_like(problem.b)
    for kind in problem.kinds:
        if kind.family.self_concordance == 0.0:
            longest[kind.predictors] = torch.inf
    return longest


def _derivatives(problem: LatentProblem) -> tuple[Tensor, Tensor]:
    """Score and information of every intercept, ``(d,)`` each."""
    score, information = torch.zeros_like(problem.b), torch.zeros_like(problem.b)
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        eta = _predictor(rows)
        score += rows.scores(eta).sum(0)
        information += rows.informations(eta).sum(0)
    score, information = problem.sum(score, information)
    return score, information


def _log_likelihood(problem: LatentProblem) -> Tensor:
    total = torch.zeros_like(problem.b)
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        total += rows.log_probs(_predictor(rows)).sum(0)
    return problem.sum(total)[0]


def _predictor(rows: LatentProblem) -> Tensor:
    return rows.predictor(rows.b.new_zeros(rows.num_rows, 1))
