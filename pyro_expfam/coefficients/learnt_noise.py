"""The scale of Gaussian noise with loading and intercept at the maximum of the evidence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.maximum import (
    MAX_SWEEPS,
    TOLERANCE,
    coefficients_of,
    evidence_of,
    with_coefficients,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint import NoiseScaleProblem, ScaledCoefficients, fit_coefficients
from pyro_expfam.user_warning import warn_user


def learn_noise_scale(
    problem: LatentProblem, prior_precision: Tensor, solver: Solver, by_column: bool
) -> LatentProblem:
    r"""Moves loading, intercept and scale of the noise to the maximum of the evidence.

    The objective is :math:`-\sum_s E_1(y_s) - \log p(W, b)` in float64, as in
    :func:`maximise_evidence`.

    Args:
        problem: the problem of the latents of Gaussian observations at the coefficients and the
            scale to start from, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``; 0 for a
            flat prior.
        solver: the solver for the latents.
        by_column: whether every column has a scale of its own.

    Returns:
        The problem at the maximum, in float64, with a family of the scale found.

    Raises:
        ValueError: if the table is constant, or a column that needs a scale of its own is.

    Warns:
        ConvergenceWarning: if the coefficients did not come to rest.
    """
    problem, prior_precision = problem.double(), prior_precision.double()
    known = evidence_of(problem, prior_precision)
    scale = scale_of(problem).expand(len(problem.b))
    objective, start = NoiseScaleProblem.of(known, by_column).start_from(
        ScaledCoefficients(coefficients_of(problem), scale), solver
    )
    coefficients, fit = fit_coefficients(
        objective,
        problem.latent_dim,
        solver,
        max_sweeps=MAX_SWEEPS,
        tol=TOLERANCE,
        start=start,
    )
    if not fit.converged:
        warn_user(
            "the scale of the noise has not reached the maximum of the evidence: " + fit.reason,
            ConvergenceWarning,
        )
    natural = objective.natural(coefficients)
    found = with_scale(problem, natural.scale if by_column else natural.scale[0])
    return with_coefficients(found, natural.coefficients)


def scale_of(problem: LatentProblem) -> Tensor:
    """The scale of the noise of Gaussian observations, ``()`` or ``(d,)``."""
    return torch.as_tensor(vars(problem.family)["scale"]).to(problem.b)


def with_scale(problem: LatentProblem, scale: Tensor) -> LatentProblem:
    """The same observations with another scale of the noise, ``()`` or ``(d,)``."""
    return replace(problem, family=problem.family.with_parameters({"scale": scale}))
