r"""The log densities of rows at their root as differentiable functions, together with the root.

At the root :math:`z`, the derivative of the log likelihood of a row in its latents is
:math:`\lambda F F^\top (z - m)`. In the sum with the log prior density it vanishes, so that the
gradient of a log joint density is its derivative at held latents (the envelope theorem). No system
is then solved.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import implicit
from pyro_expfam.deq.backend import Likelihoods, kernels_of, likelihoods_of
from pyro_expfam.deq.fisher_scoring import FisherScoring
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients, gradients
from pyro_expfam.deq.solution import Solution, warn_unless_converged
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.transformed import are_transformed

FIELDS = ("W", "b", "precision", "offset", "loc")
"""The fields of a problem that gradients reach."""


class AtRoot(NamedTuple):
    """The root of a problem, with log densities of its rows there.

    Attributes:
        solution: the root; whether it is unique, only the layer says.
        log_likelihood: of the rows, ``(N,)``, or None where there is no kernel for them, or a
            gradient of other fields than :data:`FIELDS` is wanted.
        log_prior: the log prior densities of the latents, ``(N,)``, where there are log
            likelihoods, and the prior is about zero with a known precision; or None.
    """

    solution: Solution
    log_likelihood: Tensor | None = None
    log_prior: Tensor | None = None


def solve_with_likelihood(problem: LatentProblem, solver: Solver, start: Tensor) -> AtRoot:
    """The root of a problem, and log densities of its rows there.

    All are differentiable in loading, intercept, precision, offset and prior means.

    Args:
        problem: the problem.
        solver: the solver.
        start: latents to start from, ``(..., N, l)``.
    """
    kernels = None
    if solver.compiled and start.dim() == 2 and not are_transformed():
        kernels = likelihoods_of(problem)
    if kernels is None or problem.y.requires_grad or problem.family.parameters:
        return AtRoot(implicit.solve(problem, solver, start))
    account = _Account(problem, solver, kernels)
    W = problem.map.fields.get("W")
    tensors = (W, problem.b, problem.precision, problem.offset, problem.loc)
    root, *densities = _RootAndDensities.apply(account, start, *tensors)
    return AtRoot(account.solution._replace(value=root), *densities)


class _Account:
    """What the function below knows beside tensors with gradients."""

    def __init__(self, problem: LatentProblem, solver: Solver, kernels: Likelihoods) -> None:
        self.problem, self.solver, self.kernels = problem, solver, kernels
        self.solution: Any = None
        self.at_root = False
        self.of_W: Any = None
        self.of_b: Any = None


class _RootAndDensities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, account: _Account, start: Tensor, *tensors: Tensor | None) -> Any:
        problem, solver = account.problem, account.solver
        found = _in_one_go(account, start)
        if found is None:
            solution = solver.solve(problem, start)
            account.at_root = solution.all_converged()
            if not account.at_root:
                warn_unless_converged(solution, solver)
            found = solution, account.kernels.values(problem, solution.value)
        solution, densities = found
        # Under large counts the score of rounded latents is not zero, and the gradient feels it.
        account.at_root = account.at_root and densities[0].dtype == solution.value.dtype
        value, prior, account.of_W, account.of_b = (x.to(solution.value) for x in densities)
        account.solution, ctx.account = solution, account
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(solution.value, *tensors)
        has_known_prior = problem.loc is None and not problem.precision.requires_grad
        return solution.value, value, prior if has_known_prior else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        account: _Account = ctx.account
        z, *tensors = ctx.saved_tensors
        flags = zip(FIELDS, ctx.needs_input_grad[2:], strict=True)
        needed = {name for name, need in flags if need}
        of_root, of_likelihood, of_prior = grads
        found: Gradients = {}
        if of_likelihood is not None and _cancel(account, z, grads, needed):
            factor = of_likelihood[0]
            found = {"W": factor * account.of_W, "b": factor * account.of_b}
            return None, None, *(found.get(name) if name in needed else None for name in FIELDS)
        if of_prior is not None:
            through_prior = of_prior.unsqueeze(-1) * account.problem.prior.score(z)
            of_root = through_prior if of_root is None else of_root + through_prior
        if of_likelihood is not None:
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


def _in_one_go(account: _Account, start: Tensor) -> tuple[Solution, Any] | None:
    """Root and log densities of a small table by the steps of the default solver, or None."""
    solver = account.solver
    # Exactly: a subclass may solve in another way.
    if type(solver) is not FisherScoring:
        return None
    found = account.kernels.solve_small(account.problem, solver.rules(start.dtype), start)
    account.at_root = found is not None
    return found


def _is_plain() -> bool:
    """Whether gradients need not be differentiated once more."""
    return not torch.is_grad_enabled() and not are_transformed()


def _cancel(account: _Account, z: Tensor, grads: Sequence[Tensor | None], needed: Set[str]) -> bool:
    """Whether nothing but the sum of the log likelihoods at held latents has a gradient.

    There the gradients of root, log likelihoods and log prior densities belong to a log joint
    density, whose parts cancel in the latents.
    """
    of_root, of_likelihood, of_prior = grads
    assert of_likelihood is not None
    if not account.at_root or not _is_plain() or "offset" in needed:
        return False
    if account.problem.loc is not None:
        return False
    if of_prior is None:
        precision = float(account.problem.precision)
        return of_root is not None and account.kernels.cancel(z, of_root, of_likelihood, precision)
    return of_root is None and _is_one_number(of_likelihood, of_prior)


def _is_one_number(x: Tensor, y: Tensor) -> bool:
    """Whether all entries of two vectors are the same number."""
    if x.stride(0) or y.stride(0):
        return bool(((x == x[0]) & (y == x[0])).all())
    # One number, repeated: of a sum of both it is the same in memory, too.
    return x.data_ptr() == y.data_ptr() or float(x[0]) == float(y[0])


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
