"""The Laplace posterior of loading and intercept, without rotations of the latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import (
    evidence_information,
    information_by_feature,
    weighted_information_gradient,
)
from pyro_expfam.coefficients.maximum import (
    coefficients_of,
    maximise_evidence,
    with_coefficients,
)
from pyro_expfam.coefficients.rotations import gauge_directions
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver

MAX_SADDLES = 10

ASIDE = 0.1
"""How far from a saddle, in units of natural parameters, to go on."""

LARGEST_DENSE = 3_000
"""Coefficients whose information is factorised as a whole: some seconds and 200 MB."""


@dataclass(frozen=True, eq=False)
class CoefficientPosterior:
    r"""A normal of the coefficients of a table, without rotations of its latents.

    Draws are :math:`\mu + \Pi F \varepsilon` with standard normal :math:`\varepsilon`,
    where :math:`\Pi` takes rotations out.

    Attributes:
        mode: loading and intercept side by side where the evidence and their prior are greatest,
            ``(d, l + 1)``.
        mean: :math:`\mu`, the mode corrected for skewness, ``(d, l + 1)``.
        factor: :math:`F`, for the coefficients one after the other ``(d (l + 1), k)``, or by
            feature, ``(d, l + 1, l + 1)``.
        rotations: an orthonormal basis of what is taken out, ``(d (l + 1), m)``.
        log_det_information: the log determinant of the information that the draws have.
    """

    mode: Tensor
    mean: Tensor
    factor: Tensor
    rotations: Tensor
    log_det_information: Tensor

    def __repr__(self) -> str:
        """In short: tensors are large."""
        num_features, size = self.mean.shape
        num_rotations = self.rotations.shape[1]
        return f"CoefficientPosterior({num_features=}, latent_dim={size - 1}, {num_rotations=})"

    @property
    def noise_dim(self) -> int:
        """The length of the noise that a draw is made of."""
        return self.factor.shape[-1] * (len(self.factor) if self.factor.dim() == 3 else 1)

    def draw(self, noise: Tensor) -> Tensor:
        """Coefficients ``(..., d, l + 1)`` of standard normal noise ``(..., noise_dim)``."""
        if self.factor.dim() == 2:
            change = noise @ self.factor.mT
        else:
            by_feature = noise.unflatten(-1, (len(self.factor), -1, 1))
            change = (self.factor @ by_feature).flatten(-3)
        change = change - change @ self.rotations @ self.rotations.mT
        return self.mean + change.unflatten(-1, self.mean.shape)

    def covariance(self) -> Tensor:
        """The covariance of all coefficients, ``(d (l + 1), d (l + 1))``."""
        factor = self.factor if self.factor.dim() == 2 else torch.block_diag(*self.factor)
        factor = factor - self.rotations @ (self.rotations.mT @ factor)
        return factor @ factor.mT

    def variance(self) -> Tensor:
        """The marginal variance of each coefficient, ``(d, l + 1)``."""
        return self.covariance().diagonal().reshape(self.mean.shape)


def coefficient_posterior(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor
) -> CoefficientPosterior:
    r"""The normal whose precision is the information at a maximum of the evidence.

    Its mean is :math:`\hat\theta - \tfrac12 C\, \nabla \log \det I(\hat\theta)` with the
    mode :math:`\hat\theta` and the covariance :math:`C`: the posterior of loadings is skew, most
    of all along their scale. Beyond 3,000 coefficients features are independent of each other,
    each given the others, and the mean is the mode.

    Args:
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: of the coefficients of a feature, ``(l + 1,)``; 0 for a flat prior.
        z: its root, ``(N, l)``.
        free: booleans ``(l + 1,)``, False for coefficients that are known.

    Raises:
        ValueError: if the information is not positive definite.

    Source: Tierney and Kadane (1986).
    """
    rotations = gauge_directions(problem.W.double())
    if not bool(free[:-1].all()):
        rotations = rotations[:, :0]
    if free.sum() * len(problem.b) <= LARGEST_DENSE:
        factor, log_det = _dense_factor(problem, prior_precision, z, free, rotations)
        skew = weighted_information_gradient(problem, factor @ factor.mT, z)
        shift = -0.5 * (factor @ (factor.mT @ skew.flatten())).view_as(skew)
    else:
        factor, log_det = _factor_by_feature(problem, prior_precision, z, free)
        shift = torch.zeros_like(factor[..., 0])
    mode = coefficients_of(problem)
    return CoefficientPosterior(mode, mode + shift, factor, rotations, log_det)


def posterior_at_maximum(
    problem: LatentProblem, prior_precision: Tensor, solver: Solver, free: Tensor
) -> tuple[LatentProblem, Tensor, CoefficientPosterior]:
    """The problem at the maximum of the evidence, its root, and the posterior there.

    Where the way up ends at a saddle, as it may where a latent has hardly any loading, it goes on
    from beside it. Arguments and errors are those of :func:`maximise_evidence` and
    :func:`coefficient_posterior`.
    """
    problem, z = maximise_evidence(problem, prior_precision, solver, free)
    for _ in range(MAX_SADDLES):
        away = _way_up(problem, prior_precision, z, free)
        if away is None:
            break
        start = with_coefficients(problem, coefficients_of(problem) + away)
        problem, z = maximise_evidence(start, prior_precision, solver, free)
    return problem, z, coefficient_posterior(problem, prior_precision, z, free)


def _way_up(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor
) -> Tensor | None:
    """A small change of the coefficients along which the evidence is not concave, if there is."""
    moves = free.repeat(len(problem.b))
    if moves.sum() > LARGEST_DENSE:
        return None
    information = evidence_information(problem, prior_precision, z)[moves][:, moves]
    rotations = gauge_directions(problem.W)[moves]
    projection = torch.eye(len(information)).to(information) - rotations @ rotations.mT
    values, vectors = torch.linalg.eigh(projection @ information @ projection)
    # Along rotations it is zero up to rounding.
    if values[0] >= -1e-9 * values[-1]:
        return None
    away = problem.W.new_zeros(len(moves))
    away[moves] = ASIDE * vectors[:, 0]
    return away.view(len(problem.b), -1)


def _dense_factor(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor, rotations: Tensor
) -> tuple[Tensor, Tensor]:
    moves = free.repeat(len(problem.b))
    information = evidence_information(problem, prior_precision, z)[moves][:, moves]
    orthonormal, _ = torch.linalg.qr(rotations[moves], mode="complete")
    basis = orthonormal[:, rotations.shape[1] :]
    whitening, log_det = _whitening(basis.mT @ information @ basis)
    factor = whitening.new_zeros(len(moves), whitening.shape[1])
    factor[moves] = basis @ whitening
    return factor, log_det


def _factor_by_feature(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    information = information_by_feature(problem, prior_precision, z)
    whitening, log_det = _whitening(information[:, free][:, :, free])
    factor = torch.zeros_like(information)
    place = free.nonzero()[:, 0]
    factor[:, place[:, None], place] = whitening
    return factor, log_det


def _whitening(information: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`L^{-\top}` of :math:`L L^\top`, and the log determinant of it all."""
    cholesky, failed = torch.linalg.cholesky_ex(information)
    if bool(failed.any()):
        raise ValueError(
            "y must determine loading and intercept up to rotations of the latents, got a table "
            "where the evidence has no maximum there: take fewer latents, or priors of smaller "
            "scale"
        )
    eye = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
    whitening = torch.linalg.solve_triangular(cholesky, eye.expand_as(cholesky), upper=False).mT
    return whitening, 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum()
