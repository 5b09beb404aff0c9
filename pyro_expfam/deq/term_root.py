"""The root of a problem with a further term, and its implicit gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq import search_rules
from pyro_expfam.deq.positive_definite import cholesky, cholesky_solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.solution import Solution, warn_unless_converged, with_uniqueness
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.transformed import is_traced

SINGLE_TOLERANCE, SINGLE_ROUNDING = 1e-5, 1e-5
"""The least tolerance, and what may be rounding, where a term is computed in single precision."""

SINGLE_ROUNDED = 3e-4
"""The largest score that may be rounding there."""

FLATTEST = 1e-6
"""The least curvature of a step's matrix, as a part of the largest."""


def solve_with_term(problem: LatentProblem, solver: Solver, start: Tensor) -> Solution:
    r"""The root of a problem with a term, from latents ``start`` ``(..., N, l)``.

    With the score :math:`g(z; \theta)` of all parts and the information ``H`` at the root, the
    gradient of the root in anything that the score depends on is
    :math:`dz = H^{-1}\, \partial g / \partial \theta\, d\theta`. The gradient of the root cannot be
    differentiated once more.

    Raises:
        ValueError: if the solver is not Fisher scoring.
        NotImplementedError: while a program is traced or transformed by ``torch.func``.
    """
    if is_traced() or torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "latents that other sites of a model depend on cannot be found in a traced program or "
            "inside torch.func: take a loss without Jit, or condition_on='table'"
        )
    tolerance, max_iter = solver.search_limits(start.dtype)
    shape = torch.broadcast_shapes(
        (*problem.batch_shape, problem.num_rows, problem.latent_dim), start.shape
    )
    with torch.no_grad():
        rules = SearchRules.of(tolerance, max_iter)
        if start.dtype == torch.float32:
            rules = rules._replace(
                tolerance=max(tolerance, SINGLE_TOLERANCE),
                lost=SINGLE_ROUNDING,
                rounded=SINGLE_ROUNDED,
            )
        solution, factor = _search(problem.double(), start.expand(shape), rules)
        solution = with_uniqueness(solution, problem.is_convex)
        warn_unless_converged(solution, solver)
    if not torch.is_grad_enabled():
        return solution
    score = problem.score(solution.value)
    if not score.requires_grad:
        return solution
    return solution._replace(value=_Root.apply(solution.value, score, factor.to(score.dtype)))


class _Root(torch.autograd.Function):
    """The root, whose gradient reaches the score that is zero there."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, score: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of latents that other sites of a model depend on cannot be "
                "differentiated once more: leave out create_graph, or take condition_on='table'"
            )
        (factor,) = ctx.saved_tensors
        return None, cholesky_solve(factor, grad), None


def _search(problem: LatentProblem, start: Tensor, rules: SearchRules) -> tuple[Solution, Tensor]:
    """Newton's method by the law of :mod:`~pyro_expfam.deq.search_rules`.

    All rows are evaluated until the last has converged, because the term is a function of all rows.

    Returns:
        The solution, in the dtype of ``start``, and the Cholesky factor of each row's information.
    """
    z = start.to(torch.float64, copy=True)
    objective, score, factor = _evaluate(problem, z)
    # A term may have batch dimensions that the start lacks.
    z = z.expand(*objective.shape, z.shape[-1])
    direction = cholesky_solve(factor, score)
    length = torch.ones_like(objective)
    num_iter = torch.zeros_like(objective, dtype=torch.int64)
    done = torch.zeros_like(objective, dtype=torch.bool)
    stalled = torch.zeros_like(done)
    residual = torch.full_like(objective, torch.inf)
    for iteration in range(1, rules.max_iter + 1):
        decrement = (score * direction).sum(-1)
        residual = search_rules.left_of_score(decrement)
        # Rows that are done stay where they are, and do not count on.
        num_iter = torch.where(done, num_iter, iteration)
        done = done | stalled | search_rules.ends_search(residual, length, iteration, rules)
        if bool(done.all()):
            break
        trial = z + length[..., None] * direction
        there, score_there, factor_there = _evaluate(problem, trial)
        agreement = (score_there * direction).sum(-1)
        good = ~done & search_rules.has_decreased(
            objective, there, length, decrement, agreement, rules
        )
        z, score = (
            torch.where(good[..., None], new, old)
            for new, old in ((trial, z), (score_there, score))
        )
        factor = torch.where(good[..., None, None], factor_there, factor)
        direction = cholesky_solve(factor, score)
        following = (score * direction).sum(-1)
        stalled = good & search_rules.is_stalled(
            objective, there, decrement, following, iteration + 1, rules
        )
        objective = torch.where(good, there, objective)
        length = search_rules.next_length(good | done, length)
    solution = Solution(
        z.to(start.dtype),
        search_rules.is_at_rest(residual, num_iter, rules),
        num_iter,
        residual.to(start.dtype),
    )
    return solution, factor


def _evaluate(problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective, score, and the factor of a positive definite matrix for the step from here."""
    assert problem.term is not None
    eta = problem.predictor(z)
    term = problem.term.derivatives(z)
    objective = problem.prior.objective(z) + problem.losses(eta).sum(-1) - term.value
    score = problem.map.transpose(problem.scores(eta)) + problem.prior.score(z) + term.score
    of_table = problem.curvature(eta).gram() + problem.prior_information()
    factor, exists = cholesky(of_table + term.information)
    if not bool(exists.all()):
        steps, _ = cholesky(_positive_definite(problem, eta, term.information))
        factor = torch.where(exists[..., None, None], factor, steps)
    return objective, score, factor


def _positive_definite(problem: LatentProblem, eta: Tensor, of_term: Tensor) -> Tensor:
    """A matrix for a step where the second derivatives are not positive definite.

    The table brings its expected information, and the term its curvatures without their signs.
    """
    if problem.family.is_convex:
        of_table = problem.curvature(eta).gram()
    else:
        of_table = problem.map.gram(problem.informations(eta))
    values, vectors = torch.linalg.eigh(of_term.nan_to_num())
    of_term = (vectors * values.abs().unsqueeze(-2)) @ vectors.mT
    whole = of_table + problem.prior_information() + of_term
    largest = whole.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    eye = torch.eye(whole.shape[-1], dtype=whole.dtype, device=whole.device)
    return whole + FLATTEST * largest * eye
