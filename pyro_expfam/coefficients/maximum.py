"""The coefficients of a table, and where its evidence is greatest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint import EmptyTable, Table, TableInMemory, fit_coefficients
from pyro_expfam.joint.table import split_coefficients
from pyro_expfam.user_warning import warn_user

TOLERANCE = 1e-11
"""The coefficients are at rest when a step promises less than this part of the objective."""

MAX_SWEEPS = 1_000


def with_coefficients(problem: LatentProblem, coefficients: Tensor) -> LatentProblem:
    """The problem of the latents with other coefficients ``(d, l + 1 + p)``.

    Coefficients of one latent less leave the loading of the last latent as it is: it is known, as
    the loading of a row effect is.
    """
    if coefficients.shape[1] == problem.num_coefficients - 1:
        own, size = loading_of(problem)[:, -1:].to(coefficients), problem.latent_dim - 1
        coefficients = torch.cat([coefficients[:, :size], own, coefficients[:, size:]], 1)
    parts = split_coefficients(coefficients, problem.num_coefficients - 1 - problem.latent_dim)
    problem = replace(problem, map=Dense(parts.loading), b=parts.intercept)
    if problem.covariates is None:
        return problem
    covariates = replace(problem.covariates, C=parts.of_covariates)
    return replace(problem, offset=covariates.total(), covariates=covariates)


def coefficients_of(problem: LatentProblem) -> Tensor:
    """Loading, intercept and coefficients of covariates side by side, ``(d, l + 1 + p)``."""
    parts = [problem.map.loading, problem.b[:, None]]
    if problem.covariates is not None:
        parts.append(problem.covariates.C)
    return torch.cat(parts, 1).detach()


def loading_of(problem: LatentProblem) -> Tensor:
    """The loading of a problem, ``(d, l)``."""
    return problem.map.loading.detach()


def maximise_evidence(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    free: Tensor | None = None,
    tol: float = TOLERANCE,
) -> tuple[LatentProblem, Tensor]:
    r"""Moves loading and intercept to the maximum of the evidence times their prior.

    The objective is :math:`-\sum_s E_1(y_s) - \log p(W, b)` in float64. The steps are quasi-Newton
    steps, preconditioned by the information of each feature under latents that are normal around
    their root. This information alone would give steps of expectation maximisation.

    Args:
        problem: the problem of the latents at the coefficients to start from, without batch
            dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1 + p,)``; 0 for
            a flat prior.
        solver: the solver for the latents.
        free: booleans ``(l + 1 + p,)``, False for coefficients that stay; by default all move.
        tol: the coefficients are at rest when a step promises less than this part of the objective.

    Returns:
        The problem at the maximum, in float64, and its root ``(N, l)``.

    Warns:
        ConvergenceWarning: if the coefficients did not come to rest.
    """
    problem, prior_precision = problem.double(), prior_precision.double()
    objective = evidence_of(problem, prior_precision, free)
    coefficients, fit = fit_coefficients(
        objective,
        problem.latent_dim,
        solver,
        max_sweeps=MAX_SWEEPS,
        tol=tol,
        start=coefficients_of(problem),
    )
    if not fit.converged:
        warn_user(
            "loading and intercept have not reached the maximum of the evidence: " + fit.reason,
            ConvergenceWarning,
        )
    return with_coefficients(problem, coefficients), fit.latents


def evidence_of(
    problem: LatentProblem, prior_precision: Tensor, free: Tensor | None = None
) -> EvidenceProblem:
    """The evidence of a problem's table as an objective; arguments as in maximise_evidence."""
    latent_dim = problem.latent_dim
    return EvidenceProblem(
        table_of(problem),
        problem.precision,
        prior_precision[..., :latent_dim],
        prior_precision[..., latent_dim],
        covariate_precision=prior_precision[..., latent_dim + 1 :],
        free=free,
    )


def table_of(problem: LatentProblem) -> Table:
    """The observations of a problem."""
    covariates = problem.covariates
    shared: dict[str, Any] = {
        "num_covariates": 0 if covariates is None else covariates.num_covariates,
        "processes": problem.processes,
    }
    if problem.num_rows == 0:
        return EmptyTable(problem.family, problem.num_columns, problem.b, **shared)
    weights = None if problem.weights is None else problem.of_columns(problem.weights)
    return TableInMemory(
        problem.family,
        problem.num_columns,
        problem.b,
        problem.family.decode(problem.y),
        problem.known_offset,
        None if weights is None else weights > 0,
        weights,
        None if covariates is None else covariates.x,
        **shared,
    )
