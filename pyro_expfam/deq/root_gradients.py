"""Gradients of a problem's fields through its root, by PyTorch operations."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import Tensor

from pyro_expfam.deq import conjugate_gradients
from pyro_expfam.deq.curvature import Curvature
from pyro_expfam.deq.positive_definite import cholesky, cholesky_solve
from pyro_expfam.deq.problem import OF_FAMILY, LatentProblem

Gradients = dict[str, Tensor]
"""Gradients of fields by name."""

SUMMED = frozenset({"W", "b", "precision"})
"""Fields without a dimension of rows."""


def is_of_law(name: str) -> bool:
    """Whether a field enters the law of the observations given their linear predictors."""
    return name == "y" or name.startswith(OF_FAMILY)


def gradients(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
    """Gradients of a problem's fields through its root ``z``, given the gradient of ``z``.

    They are not yet summed over the dimensions along which the fields broadcast.

    Args:
        problem: the problem.
        z: its root, ``(..., N, l)``.
        grad: the gradient of the root.
        needed: the names of the fields; others may be left out.
    """
    eta = problem.predictor(z)
    score, curvature = problem.score_and_curvature(eta)
    u = solve_information(problem, curvature, grad)
    Wu = problem.map(u)
    a = curvature.times(Wu)
    of_score = problem.map.pullback(problem.weighted(score), u)
    of_predictor = problem.map.pullback(-a, z)
    found = {
        **{name: x + of_predictor[name] for name, x in of_score.items()},
        "b": -a.sum(-2),
        **problem.prior.score_gradients(z, u, needed),
        "offset": -a,
        "weights": score * Wu,
    }
    return found | of_law(problem, needed, lambda law: law.family.score(eta, law.y), Wu)


def of_law(
    problem: LatentProblem,
    needed: Set[str],
    function: Callable[[LatentProblem], Tensor],
    grad: Tensor,
) -> Gradients:
    """Gradients of ``y`` and of the family's parameters, through a function of the entries.

    Args:
        problem: the problem.
        needed: the names of fields; only ``y`` and parameters of the family count.
        function: a function of a problem whose value has the shape ``(..., N, d)``.
        grad: the gradient of the weighted value of the function.
    """
    own = {k: x for k, x in problem.fields.items() if k in needed and is_of_law(k)}
    if not own:
        return {}
    pull_back = torch.func.vjp(
        lambda *tensors: function(problem.with_fields(dict(zip(own, tensors, strict=True)))),
        *own.values(),
    )[1]
    return dict(zip(own, pull_back(problem.weighted(grad)), strict=True))


def solve_information(problem: LatentProblem, curvature: Curvature, grad: Tensor) -> Tensor:
    """Solutions ``u`` of ``H u = grad``; ``H`` is formed in float64, where it is definite.

    Under a map without a matrix the systems are solved by conjugate gradients.
    """
    if not problem.map.has_matrix:
        return conjugate_gradients.solve_information(problem, curvature.eta, grad)
    factor, _ = cholesky(curvature.exact_gram() + problem.prior_information().double())
    solution = cholesky_solve(factor, grad.double()).to(grad.dtype)
    if problem.is_convex:
        return solution
    # A row at a saddle has no factor, and needs none without a gradient.
    return solution.masked_fill((grad == 0).all(-1, keepdim=True), 0.0)
