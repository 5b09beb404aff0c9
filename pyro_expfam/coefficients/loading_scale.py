"""The scale of loadings by the evidence in which they are integrated out."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.maximum import coefficients_of, with_coefficients
from pyro_expfam.coefficients.posterior import CoefficientPosterior, posterior_at_maximum
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver

MAX_UPDATES = 60
UNDAMPED = 20

TOLERANCE = 1e-3
"""The relative change of every scale at which they are at rest."""

SMALLEST = 1e-3
"""A scale below this part of the largest is that of a latent that is not needed."""


class LearntScale(NamedTuple):
    """Scales of a loading, with the maximum of the evidence under them.

    Attributes:
        scale: the scale of each latent, ``(l,)``.
        problem: the problem of the latents at the maximum.
        z: its root, ``(N, l)``.
        posterior: the posterior of the coefficients.
    """

    scale: Tensor
    problem: LatentProblem
    z: Tensor
    posterior: CoefficientPosterior


def learn_loading_scale(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    free: Tensor,
    by_latent: bool,
) -> LearntScale:
    r"""Scales :math:`\tau` of the loading where its evidence is greatest.

    There :math:`\tau_k^2 = \|W_k\|^2 / \gamma_k` with :math:`\gamma_k = d - \operatorname{tr}
    C_k / \tau_k^2`, the number of the loadings of latent :math:`k` that the table determines, and
    :math:`C_k` their posterior covariance; that is iterated. A latent that is not needed
    has :math:`\tau_k \to 0`, without which it has no evidence to gain.

    Args:
        problem: the problem of the latents at the coefficients to start from.
        prior_precision: of the coefficients of a feature, ``(l + 1,)``, to start from.
        solver: of the latents.
        free: booleans ``(l + 1,)``, False for coefficients that stay.
        by_latent: whether every latent has a scale of its own.

    Source: MacKay, *Bayesian interpolation* (1992), equation (4.10) for :math:`\gamma`.
    """
    prior_precision = prior_precision.double().clone()
    problem = _principal_axes(problem.double())
    scale = prior_precision[:-1].rsqrt()
    for number in range(MAX_UPDATES):
        problem, z, posterior = posterior_at_maximum(problem, prior_precision, solver, free)
        new = _update(problem.W, posterior.variance()[:, :-1], scale, by_latent)
        at_rest = bool(((new / scale).log().abs() <= TOLERANCE).all())
        if at_rest:
            return LearntScale(scale, problem, z, posterior)
        # Near the point where a latent is just needed, full updates may go back and forth.
        scale = new if number < UNDAMPED else (scale * new).sqrt()
        prior_precision[:-1] = scale.pow(-2)
    warnings.warn(
        f"the scales of the loading have not come to rest in {MAX_UPDATES} updates",
        ConvergenceWarning,
        stacklevel=2,
    )
    return LearntScale(scale, problem, z, posterior)


def _update(W: Tensor, variance: Tensor, scale: Tensor, by_latent: bool) -> Tensor:
    squares, spread = W.square().sum(0), variance.sum(0)
    size = torch.full_like(squares, len(W))
    if not by_latent:
        squares, spread, size = (x.sum().expand_as(x) for x in (squares, spread, size))
    determined = size - spread / scale.square()
    # The plain iteration of expectation maximisation, where the other has no solution.
    plain = ((squares + spread) / size).sqrt()
    fast = torch.where(determined > 0, squares / determined.clamp(min=1e-3), plain.square()).sqrt()
    return fast.clamp(min=SMALLEST * float(fast.max()))


def _principal_axes(problem: LatentProblem) -> LatentProblem:
    """The same problem with orthogonal loadings, on which scales by latent can settle."""
    _, _, axes = torch.linalg.svd(problem.W, full_matrices=False)
    coefficients = coefficients_of(problem)
    if axes.shape[0] == axes.shape[1]:
        coefficients[:, :-1] = problem.W @ axes.mT
    return with_coefficients(problem, coefficients)
