r"""The log likelihood of rows at their root as a differentiable function, together with the root.

At the root :math:`z`, the derivative of the log likelihood of a row in its latents is
:math:`\lambda F F^\top (z - m)`. In the sum with the log prior density it vanishes, so that the
gradient of a log joint density is its derivative at held latents (the envelope theorem). No system
is then solved.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq import implicit
from pyro_expfam.deq.backend import Likelihoods, kernels_of, likelihoods_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients, gradients
from pyro_expfam.deq.solution import Solution, warn_unless_converged, with_uniqueness
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.transformed import are_transformed

FIELDS = ("W", "b", "precision", "offset", "loc")
"""The fields of a problem that gradients reach."""


def solve_with_likelihood(
    problem: LatentProblem, solver: Solver, start: Tensor
) -> tuple[Solution, Tensor | None]:
    """The root of a problem, and the log likelihoods of its rows there without base measures.

    Both are differentiable in loading, intercept, precision, offset and prior means. The log
    likelihoods ``(N,)`` are None where there is no kernel for them, or a gradient of other fields
    is wanted. They are in double precision where single precision lacks the digits.

    Args:
        problem: the problem.
        solver: the solver.
        start: latents to start from, ``(..., N, l)``.
    """
    kernels = None
    if solver.compiled and start.dim() == 2 and not are_transformed():
        kernels = likelihoods_of(problem)
    if kernels is None or problem.y.requires_grad or problem.family.parameters:
        return implicit.solve(problem, solver, start), None
    fields, account = problem.fields, _Account(problem, solver, kernels)
    root, value = _RootAndLikelihood.apply(account, start, *map(fields.get, FIELDS))
    return account.solution._replace(value=root), value


class _Account:
    """What the function below knows beside tensors with gradients."""

    def __init__(self, problem: LatentProblem, solver: Solver, kernels: Likelihoods) -> None:
        self.problem, self.solver, self.kernels = problem, solver, kernels
        self.solution: Any = None
        self.at_root = False
        self.of_W: Any = None
        self.of_b: Any = None


class _RootAndLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, account: _Account, start: Tensor, *tensors: Tensor | None) -> Any:
        problem, solver = account.problem, account.solver
        solution = with_uniqueness(solver.solve(problem, start), problem.family.is_convex)
        converged = solution.all_converged()
        if not converged:
            warn_unless_converged(solution, solver)
        value, account.of_W, account.of_b = account.kernels.values(problem, solution.value)
        # Under large counts the score of rounded latents is not zero, and the gradient feels it.
        account.at_root = converged and value.dtype == solution.value.dtype
        account.solution, ctx.account = solution, account
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(solution.value, *tensors)
        return solution.value, value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        account: _Account = ctx.account
        z, *tensors = ctx.saved_tensors
        flags = zip(FIELDS, ctx.needs_input_grad[2:], strict=True)
        needed = {name for name, need in flags if need}
        of_root, of_likelihood = grads
        found: Gradients = {}
        if of_likelihood is not None and _cancel(account, z, of_root, of_likelihood, needed):
            factor = of_likelihood[0]
            found = {"W": factor * account.of_W, "b": factor * account.of_b}
            return None, None, *(found.get(name) if name in needed else None for name in FIELDS)
        if of_likelihood is not None:
            of_likelihood = of_likelihood.to(z.dtype)
            found = _at_held_latents(account.problem, z, of_likelihood)
            of_root = _of_latents(account, z, of_root, of_likelihood)
        if of_root is not None:
            for name, x in _through_root(account.problem, z, of_root, needed).items():
                found[name] = x + found[name] if name in found else x
        reduced = (
            None if x is None or name not in needed else found[name].sum_to_size(x.shape)
            for name, x in zip(FIELDS, tensors, strict=True)
        )
        return None, None, *reduced


def _is_plain() -> bool:
    """Whether gradients need not be differentiated once more."""
    return not torch.is_grad_enabled() and not are_transformed()


def _cancel(
    account: _Account, z: Tensor, of_root: Tensor | None, of_likelihood: Tensor, needed: Set[str]
) -> bool:
    """Whether nothing but the sum of the log likelihoods at held latents has a gradient.

    There the gradient belongs to a log joint density, whose parts cancel in the latents.
    """
    if of_root is None or not account.at_root or not _is_plain() or "offset" in needed:
        return False
    if account.problem.loc is not None:
        return False
    return account.kernels.cancel(z, of_root, of_likelihood, float(account.problem.precision))


def _at_held_latents(problem: LatentProblem, z: Tensor, grad: Tensor) -> Gradients:
    """Gradients through the log likelihoods at held latents, given their gradient ``(N,)``."""
    scores = problem.scores(problem.predictor(z)) * grad.unsqueeze(-1)
    return {"W": scores.mT @ z, "b": scores.sum(-2), "offset": scores}


def _of_latents(
    account: _Account, z: Tensor, of_root: Tensor | None, of_likelihood: Tensor
) -> Tensor:
    """The gradient in the latents, with the gradient of the log likelihoods added."""
    problem, by_row = account.problem, of_likelihood.unsqueeze(-1)
    if account.at_root:
        through_likelihood = -by_row * problem.prior.score(z)
    else:
        scores = problem.scores(problem.predictor(z))
        through_likelihood = by_row * problem.map.transpose(scores)
    return through_likelihood if of_root is None else of_root + through_likelihood


def _through_root(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
    """Gradients through the root, given its gradient ``(N, l)``."""
    kernels = kernels_of(problem) if _is_plain() else None
    found = None if kernels is None else kernels.gradients(problem, z, grad, needed)
    return gradients(problem, z, grad, needed) if found is None else found
