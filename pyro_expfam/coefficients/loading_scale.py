"""The scale of loadings at the maximum of the evidence with the loadings integrated out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.covariance import CoefficientCovariance, maximum_with_covariance
from pyro_expfam.coefficients.maximum import coefficients_of, loading_of, with_coefficients
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.user_warning import warn_user

MAX_UPDATES = 60

TOLERANCE = 1e-3
"""The scales are at rest when none of them changes by more than this relative amount."""

ON_THE_WAY = 1e-8
"""The tolerance of the maximum of the evidence while the scales still change."""

SMALLEST = 1e-3
"""The scale of a latent that is not needed, relative to the largest scale."""

LEAST = 1e-5
"""The smallest scale, at which no table can tell a latent from nothing. The scale of entries that
vary less than their family would fall to zero."""

LARGEST = 30.0
"""The largest scale under a discrete family. Observations are certain at such natural parameters,
with a variance of :math:`e^{-30}`: beyond it the scale may grow without end, and no table can tell
it from a larger one."""


class LearntScale(NamedTuple):
    """Scales of a loading, with the maximum of the evidence under them.

    Attributes:
        scale: the scale of each latent, ``(l,)``.
        problem: the problem of the latents at the maximum.
        z: the root of the problem, ``(N, l)``.
        covariance: the inverse information of the coefficients there.
    """

    scale: Tensor
    problem: LatentProblem
    z: Tensor
    covariance: CoefficientCovariance


def learn_loading_scale(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    free: Tensor,
    by_latent: bool,
) -> LearntScale:
    r"""Scales :math:`\tau` of the loading where its evidence is greatest.

    The best scales solve :math:`\tau_k^2 = \|W_k\|^2 / \gamma_k`. Here :math:`\gamma_k = d -
    \operatorname{tr} C_k / \tau_k^2` is the number of loadings of latent :math:`k` that the table
    determines, and :math:`C_k` is their posterior covariance. The equation is iterated. A change
    in the direction opposite to the last one is halved.

    As a scale falls, it reaches a point where the best loading of its latent is just zero. Near
    this point the evidence has no curvature, the normal around the best loading is wider than its
    prior, and :math:`\gamma_k < 0`, so that the iteration has no next value. A latent that reaches
    it is taken as not needed, and its scale is a thousandth of the largest from then on. A latent
    that explains some of the table, even if only its noise, keeps a scale of its own.

    Under a discrete family no scale exceeds 30. The evidence of a table far from its family, such
    as very overdispersed counts, may rise with the scale without end.

    Args:
        problem: the problem of the latents at the coefficients to start from.
        prior_precision: prior precisions of the coefficients to start from, ``(l + 1,)``, or
            ``(d, l + 1)`` where they differ by linear predictor. The scales that are learnt are the
            same for all predictors, and start from the narrowest.
        solver: the solver for the latents.
        free: booleans ``(l + 1,)``, False for coefficients that stay.
        by_latent: whether every latent has a scale of its own.

    Warns:
        ConvergenceWarning: if the scales do not come to rest, or end at their bound.

    Source: MacKay, *Bayesian interpolation* (1992), equation (4.10) for :math:`\gamma`.
    """
    prior_precision = prior_precision.double().clone()
    # The loading of a row effect is known, and has no scale.
    latent_dim = int(free[: problem.latent_dim].sum())
    problem = _principal_axes(problem.double(), latent_dim)
    # The largest precision of each latent: predictors share the scales that are learnt.
    scale = torch.atleast_2d(prior_precision)[:, :latent_dim].amax(0).rsqrt()
    prior_precision[..., :latent_dim] = scale.pow(-2)
    largest = LARGEST if problem.family.support.is_discrete else math.inf
    needed, last = torch.ones_like(scale, dtype=torch.bool), torch.zeros_like(scale)
    for _ in range(MAX_UPDATES):
        problem, _, covariance = maximum_with_covariance(
            problem, prior_precision, solver, free, ON_THE_WAY
        )
        variance = covariance.variance()[:, :latent_dim]
        own = loading_of(problem)[:, :latent_dim]
        update = _update(own, variance, scale, by_latent)
        if by_latent:
            needed = _still_needed(needed, update)
        new = update.scale.where(needed, SMALLEST * update.scale[needed].max())
        new = new.clamp(LEAST, largest)
        change = (new / scale).log()
        if bool((change.abs() <= TOLERANCE).all()):
            break
        # Near the point where a latent is just needed, full updates may go back and forth.
        last = change.where((change * last >= 0) | ~needed, change / 2)
        scale = scale * last.exp()
        prior_precision[..., :latent_dim] = scale.pow(-2)
    else:
        warn_user(
            f"the scales of the loading still change after {MAX_UPDATES} updates",
            ConvergenceWarning,
        )
    if float(scale.max()) >= (1 - TOLERANCE) * largest:
        warn_user(
            f"the scale of the loading is held at {largest:g}: the evidence still rises with it, "
            "as it may if counts vary far more than the family lets them. A fixed loading_scale "
            "does not grow",
            ConvergenceWarning,
        )
    at_rest = maximum_with_covariance(problem, prior_precision, solver, free)
    return LearntScale(scale, *at_rest)


class _Update(NamedTuple):
    """The next scales of the iteration.

    Attributes:
        scale: the scale of each latent, ``(l,)``.
        determined: how many of each latent's loadings the table determines, ``(l,)``.
    """

    scale: Tensor
    determined: Tensor


def _still_needed(needed: Tensor, update: _Update) -> Tensor:
    """Which latents are needed, always including the latent with the largest scale."""
    largest = update.scale.where(needed, 0.0).argmax()
    needed = needed & (update.determined > 0)
    needed[largest] = True
    return needed


def _update(W: Tensor, variance: Tensor, scale: Tensor, by_latent: bool) -> _Update:
    squares, spread = W.square().sum(0), variance.sum(0)
    size = torch.full_like(squares, len(W))
    if not by_latent:
        squares, spread, size = (x.sum().expand_as(x) for x in (squares, spread, size))
    determined = size - spread / scale.square()
    # The plain iteration of expectation maximisation, for scales where the fast one has no value.
    plain = ((squares + spread) / size).sqrt()
    fast = torch.where(determined > 0, squares / determined.clamp(min=1e-3), plain.square()).sqrt()
    return _Update(fast.clamp(min=SMALLEST * float(fast.max())), determined)


def _principal_axes(problem: LatentProblem, latent_dim: int) -> LatentProblem:
    """The same problem with orthogonal loadings, for which scales per latent can settle."""
    W = loading_of(problem)[:, :latent_dim]
    _, _, axes = torch.linalg.svd(W, full_matrices=False)
    coefficients = coefficients_of(problem)
    if axes.shape[0] == axes.shape[1]:
        coefficients[:, :latent_dim] = W @ axes.mT
    return with_coefficients(problem, coefficients)
