"""The covariance of loading and intercept at a maximum of the evidence, without rotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import (
    evidence_information,
    information_by_feature,
    predictors_of_feature,
)
from pyro_expfam.coefficients.maximum import (
    TOLERANCE,
    coefficients_of,
    loading_of,
    maximise_evidence,
    with_coefficients,
)
from pyro_expfam.coefficients.rotations import rotations_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver

MAX_SADDLES = 10

LEAST_INFORMATION = 1e-10
"""Under flat priors, coefficients that a table says less of are not determined by it."""

ASIDE = 0.1
"""How far from a saddle the search goes on, in units of the coefficients."""

InformationAt = Callable[[LatentProblem, Tensor, Tensor], Tensor]
"""The information of all coefficients, from a problem, prior precisions and the root."""

LARGEST_DENSE = 3_000
"""The most coefficients whose information is factorised as a whole: some seconds and 200 MB."""


@dataclass(frozen=True, eq=False)
class CoefficientCovariance:
    r"""The inverse information of the coefficients of a table, without rotations of its latents.

    It is :math:`\Pi F F^\top \Pi`, where :math:`\Pi` projects rotations out.

    Attributes:
        mode: loading and intercept side by side, where evidence times prior is greatest,
            ``(d, l + 1)``.
        factor: :math:`F`, for all coefficients one after the other, ``(d (l + 1), k)``, or per
            feature, ``(features, K (l + 1), k)``, with ``K`` linear predictors per feature.
        rotations: an orthonormal basis of the rotations, ``(d (l + 1), m)``.
        log_det_information: the log determinant of :math:`(F^\top F)^{-1}`.
    """

    mode: Tensor
    factor: Tensor
    rotations: Tensor
    log_det_information: Tensor

    @property
    def noise_dim(self) -> int:
        """The number of standard normal numbers that make a draw."""
        return self.factor.shape[-1] * (len(self.factor) if self.factor.dim() == 3 else 1)

    def covariance(self) -> Tensor:
        """The covariance of all coefficients, ``(d (l + 1), d (l + 1))``."""
        factor = self._projected_factor()
        return factor @ factor.mT

    def variance(self) -> Tensor:
        """The marginal variance of each coefficient, ``(d, l + 1)``."""
        return self._projected_factor().square().sum(-1).view_as(self.mode)

    def by_predictor(self) -> Tensor:
        """The covariance of the coefficients of each linear predictor, ``(d, l + 1, l + 1)``."""
        if self.factor.dim() == 3:
            own = self.factor.reshape(*self.mode.shape, -1)
        else:
            own = self._projected_factor().unflatten(0, self.mode.shape)
        return own @ own.mT

    def forms(self, gradients: Tensor) -> Tensor:
        """The variances of functions of the coefficients, from gradients ``(..., d, l + 1)``.

        Where features are independent, rotations are left in: no function of a table changes along
        them.
        """
        if self.factor.dim() == 3:
            own = gradients.unflatten(-2, (len(self.factor), -1)).flatten(-2)
            return (own.unsqueeze(-2) @ self.factor).square().sum((-3, -2, -1))
        return (gradients.flatten(-2) @ self._projected_factor()).square().sum(-1)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Intervals of the coefficients by the normal, the two ends ``(d, l + 1)``.

        Intervals of loadings are those in the basis of the mode: rotations are left out.

        Args:
            level: the probability of the intervals.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        quantile = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
        width = quantile.to(self.mode) * self.variance().sqrt()
        return self._centre - width, self._centre + width

    @property
    def _centre(self) -> Tensor:
        return self.mode

    def _projected_factor(self) -> Tensor:
        """The factor of :meth:`covariance`, ``(d (l + 1), k)``."""
        factor = self.factor if self.factor.dim() == 2 else torch.block_diag(*self.factor)
        return factor - self.rotations @ (self.rotations.mT @ factor)


def coefficient_covariance(
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
    free: Tensor,
    information: InformationAt = evidence_information,
) -> CoefficientCovariance:
    """The inverse information at a maximum of the evidence.

    With more than 3,000 coefficients, features are taken as independent of each other: the
    information keeps the block of each feature alone.

    Args:
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``; 0 for a
            flat prior.
        z: the root of the problem, ``(N, l)``.
        free: booleans ``(l + 1,)``, False for coefficients that are known.
        information: the information of all coefficients; it is not asked for more than 3,000.

    Raises:
        ValueError: if the information is not positive definite.
    """
    rotations = _rotations(problem, free)
    if free.sum() * len(problem.b) > LARGEST_DENSE:
        factor, log_det = _factor_by_feature(problem, prior_precision, z, free)
        return CoefficientCovariance(coefficients_of(problem), factor, rotations, log_det)
    across = _information_across(problem, prior_precision, z, free, information)
    return _of(problem, prior_precision[..., free], rotations, across)


def maximum_with_covariance(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    free: Tensor,
    tol: float = TOLERANCE,
    information: InformationAt = evidence_information,
) -> tuple[LatentProblem, Tensor, CoefficientCovariance]:
    """The problem at the maximum of the evidence, its root, and the inverse information there.

    The ascent may end at a saddle where a latent has hardly any loading. It then goes on from a
    point beside the saddle. Arguments and errors are as in
    :func:`~pyro_expfam.coefficients.maximise_evidence` and :func:`coefficient_covariance`.
    """
    problem, z = maximise_evidence(problem, prior_precision, solver, free, tol)
    if free.sum() * len(problem.b) > LARGEST_DENSE:
        return problem, z, coefficient_covariance(problem, prior_precision, z, free)
    across = _information_across(problem, prior_precision, z, free, information)
    for _ in range(MAX_SADDLES):
        away = _way_up(across)
        if away is None:
            break
        start = coefficients_of(problem) + away.view(len(problem.b), -1)
        problem = with_coefficients(problem, start)
        problem, z = maximise_evidence(problem, prior_precision, solver, free, tol)
        across = _information_across(problem, prior_precision, z, free, information)
    rotations = _rotations(problem, free)
    return problem, z, _of(problem, prior_precision[..., free], rotations, across)


class _Across(NamedTuple):
    """The information of the free coefficients in the directions orthogonal to rotations.

    Attributes:
        basis: an orthonormal basis of the directions, ``(d (l + 1), k)``.
        information: the information in this basis, ``(k, k)``.
    """

    basis: Tensor
    information: Tensor


def _rotations(problem: LatentProblem, free: Tensor) -> Tensor:
    """Rotations of the loading; none if the loading is known."""
    return rotations_of(loading_of(problem).double(), free)


def _information_across(
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
    free: Tensor,
    information: InformationAt,
) -> _Across:
    moves = free.repeat(len(problem.b))
    of_free = information(problem, prior_precision, z)[moves][:, moves]
    rotations = _rotations(problem, free)
    orthonormal, _ = torch.linalg.qr(rotations[moves], mode="complete")
    among_free = orthonormal[:, rotations.shape[1] :]
    basis = among_free.new_zeros(len(moves), among_free.shape[1])
    basis[moves] = among_free
    return _Across(basis, among_free.mT @ of_free @ among_free)


def _way_up(across: _Across) -> Tensor | None:
    """A small change of the coefficients along which the evidence is not concave, or None."""
    _, failed = torch.linalg.cholesky_ex(across.information)
    if not bool(failed):
        return None
    values, vectors = torch.linalg.eigh(across.information)
    # A direction that is flat up to rounding leads nowhere.
    return None if values[0] >= -1e-9 * values[-1] else ASIDE * across.basis @ vectors[:, 0]


def _of(
    problem: LatentProblem, prior_precision: Tensor, rotations: Tensor, across: _Across
) -> CoefficientCovariance:
    whitening, log_det = _whitening(across.information, prior_precision)
    mode = coefficients_of(problem)
    return CoefficientCovariance(mode, across.basis @ whitening, rotations, log_det)


def _factor_by_feature(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    information = information_by_feature(problem, prior_precision, z)
    own_precision = prior_precision[..., free]
    free = free.repeat(predictors_of_feature(problem))
    whitening, log_det = _whitening(information[:, free][:, :, free], own_precision)
    factor = information.new_zeros(*information.shape[:2], whitening.shape[-1])
    factor[:, free] = whitening
    return factor, log_det


def _whitening(information: Tensor, prior_precision: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`L^{-\top}` of :math:`L L^\top`, and the sum of the log determinants."""
    cholesky, failed = torch.linalg.cholesky_ex(information)
    # The likelihood of a column without an event rises for ever, ever more slowly.
    pivots = cholesky.diagonal(dim1=-2, dim2=-1).square()
    runs_away = bool((prior_precision == 0).any()) and bool((pivots < LEAST_INFORMATION).any())
    if bool(failed.any()) or runs_away:
        raise ValueError(
            "y must determine loading and intercept up to rotations of the latents, got a table "
            "where the evidence has no maximum there: take fewer latents, or priors of smaller "
            "scale"
        )
    eye = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
    whitening = torch.linalg.solve_triangular(cholesky, eye.expand_as(cholesky), upper=False).mT
    return whitening, 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum()
