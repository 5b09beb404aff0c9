"""Loading and intercept at the maximum of the evidence of a table."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import complete_information
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence.laplace import laplace_evidence
from pyro_expfam.joint.quasi_newton import QuasiNewton

ENOUGH = 1e-4
"""The part of the increase that the gradient promises which a step has to keep (Armijo)."""

SHORTEST = 2.0**-20

TOLERANCE = 1e-11
"""The part of the objective that a step promises at which the coefficients are at rest."""

MAX_STEPS = 500


def with_coefficients(problem: LatentProblem, coefficients: Tensor) -> LatentProblem:
    """The problem of the latents with other coefficients ``(d, l + 1)``."""
    return replace(problem, W=coefficients[:, :-1], b=coefficients[:, -1])


def coefficients_of(problem: LatentProblem) -> Tensor:
    """Loading and intercept of a problem side by side, ``(d, l + 1)``."""
    return torch.cat([problem.W, problem.b[:, None]], 1).detach()


def maximise_evidence(
    problem: LatentProblem, prior_precision: Tensor, solver: Solver, free: Tensor | None = None
) -> tuple[LatentProblem, Tensor]:
    r"""Moves loading and intercept to the maximum of the evidence and their prior.

    The objective is :math:`-\sum_s E_1(y_s) - \log p(W, b)` in float64. Steps are quasi-Newton
    steps on top of the information that each feature would have of its coefficients if the latents
    were normal around their root: without memory they would be those of expectation maximisation.

    Args:
        problem: the problem of the latents at the coefficients to start from, without batch
            dimensions.
        prior_precision: of the coefficients of a feature, ``(l + 1,)``; 0 for a flat prior.
        solver: of the latents.
        free: booleans ``(l + 1,)``, False for coefficients that stay; by default all move.

    Returns:
        The problem at the maximum, in float64, and its root ``(N, l)``.

    Warns:
        ConvergenceWarning: if the coefficients did not come to rest.
    """
    problem, prior_precision = problem.double(), prior_precision.double()
    moves = torch.ones_like(prior_precision) if free is None else free.to(prior_precision)
    memory = QuasiNewton()
    z = problem.statistic.new_zeros(problem.num_rows, problem.latent_dim)
    value, gradient, z = _objective(problem, prior_precision, z, solver)
    gradient = gradient * moves
    for _ in range(MAX_STEPS):
        factor = _factor(complete_information(problem, prior_precision, z), moves)
        direction = memory.direction(gradient, factor)
        slope = float((gradient * direction).sum())
        if slope >= 0:
            memory.forget()
            direction = memory.direction(gradient, factor)
            slope = float((gradient * direction).sum())
        if -slope <= TOLERANCE * (1 + abs(value)):
            return problem, z
        start, length = coefficients_of(problem), 1.0
        while True:
            trial = with_coefficients(problem, start + length * direction)
            found = _objective(trial, prior_precision, z, solver)
            # A comparison with NaN is False.
            decreases = found[0] <= value + ENOUGH * length * slope
            if decreases and bool(found[1].isfinite().all()):
                break
            length /= 2
            if length < SHORTEST:
                return problem, z
        change = found[1] * moves - gradient
        memory.remember(length * direction, change)
        problem, value, gradient, z = trial, found[0], gradient + change, found[2]
    warnings.warn(
        f"loading and intercept have not come to the maximum of the evidence in {MAX_STEPS} steps",
        ConvergenceWarning,
        stacklevel=2,
    )
    return problem, z


def _objective(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, solver: Solver
) -> tuple[float, Tensor, Tensor]:
    """Minus the log evidence and prior up to a constant, its gradient, and the root."""
    with torch.no_grad():
        root = solver.solve(problem, z).value
    coefficients = coefficients_of(problem).requires_grad_()
    with torch.enable_grad():
        evidence = laplace_evidence(with_coefficients(problem, coefficients), root).sum()
        value = 0.5 * (prior_precision * coefficients.square()).sum() - evidence
        (gradient,) = torch.autograd.grad(value, coefficients)
    return float(value.detach()), gradient, root


def _factor(information: Tensor, moves: Tensor) -> Tensor:
    """Cholesky factors by feature, in which coefficients that stay know nothing of the others."""
    restricted = information * moves[:, None] * moves
    restricted = restricted + torch.diag(1 - moves)
    size = restricted.diagonal(dim1=-2, dim2=-1).mean(-1)
    smallest = 1e-12 * size[:, None, None]
    eye = torch.eye(len(moves), dtype=information.dtype, device=information.device)
    factor, _ = torch.linalg.cholesky_ex(restricted + smallest * eye)
    return factor
