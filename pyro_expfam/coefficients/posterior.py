"""The Laplace posterior of loading and intercept, without rotations of the latents."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pyro_expfam.coefficients.covariance import (
    CoefficientCovariance,
    coefficient_covariance,
    maximum_with_covariance,
)
from pyro_expfam.coefficients.information import by_predictor, complete_information_gradient
from pyro_expfam.coefficients.information_gradient import KeptInformation
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.coefficients.scores import score_products, score_products_by_feature
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver

LARGEST_SHIFT = 1.25
"""The longest correction for skewness of a column's own mean, in posterior standard deviations.

The part of the correction that a change of basis of the latents makes in all columns does not
count. Measured against importance sampling on 79 random tables of bits and counts with one latent:
the corrected mean was nearer to the exact one than the mode in about 4 of 5 columns with a shift up
to 1, in half of the columns with a shift between 1 and 1.25, and in 4 of 26 columns beyond 1.25.
The correction is linear in the skewness, and has no bound of its own. It grows without limit
towards a saddle of the evidence, and in a column without an event as the prior of the intercept
widens.
"""

LARGEST_COMMON_CHANGE = 0.5
"""The largest change of scale or location of the latents, in their prior standard deviations, that
is a small part of the loading. Ordinary tables with many columns stay near 0.1; tables of few
columns near a saddle of the evidence are beyond it."""


@dataclass(frozen=True, eq=False)
class CoefficientPosterior(CoefficientCovariance):
    r"""A normal of the coefficients of a table, without rotations of its latents.

    Draws are :math:`\mu + \Pi F \varepsilon` with standard normal :math:`\varepsilon`,
    where :math:`\Pi` projects rotations out.

    The variances assume that the table follows the model. They are then close to the exact ones: on
    simulated counts of 25 x 5 and 40 x 6 the standard deviations of :math:`W W^\top` are 15 to 20%
    below the values from NUTS, since a normal has lighter tails than the posterior of a small
    table. If rows spread more than the model allows, as overdispersed counts do under a Poisson
    family, intervals are too narrow by much more: see :attr:`sandwich`.

    Attributes:
        mode: as in :class:`CoefficientCovariance`, like the next three.
        factor: :math:`F`.
        rotations: an orthonormal basis of the rotations.
        log_det_information: the log determinant of :math:`(F^\top F)^{-1}`.
        mean: :math:`\mu`, the mode corrected for skewness, ``(d, l + 1)``.
        score_covariance: the products of the scores of rows plus the precision of the prior, in
            units of the information: :math:`F^\top (\sum_s g_s g_s^\top + P) F`, ``(k, k)`` or
            ``(features, k, k)``. Under the right model it is the identity on average.
        unreliable_columns: booleans ``(features,)``, True for columns of the table with a posterior
            too skew for a normal to describe. Their mean is the mode, without the correction for
            skewness. Their variances, intervals and draws are unreliable.
    """

    mean: Tensor
    score_covariance: Tensor
    unreliable_columns: Tensor

    def __repr__(self) -> str:
        """A short form, without the tensors."""
        num_features, num_coefficients = self.mean.shape
        num_rotations = self.rotations.shape[1]
        return f"{type(self).__name__}({num_features=}, {num_coefficients=}, {num_rotations=})"

    @property
    def _centre(self) -> Tensor:
        return self.mean

    def draw(self, noise: Tensor) -> Tensor:
        """Coefficients ``(..., d, l + 1)`` from standard normal noise ``(..., noise_dim)``."""
        if self.factor.dim() == 2:
            change = noise @ self.factor.mT
        else:
            by_feature = noise.unflatten(-1, (len(self.factor), -1, 1))
            change = (self.factor @ by_feature).flatten(-3)
        change = change - change @ self.rotations @ self.rotations.mT
        return self.mean + change.unflatten(-1, self.mean.shape)

    def drawn(self, problem: LatentProblem, noise: Tensor) -> LatentProblem:
        """A problem under the coefficients of a draw, from its noise ``(noise_dim,)``."""
        return with_coefficients(problem, self.draw(noise).to(problem.b))

    def log_density_ratio(self, noise: Tensor) -> Tensor:
        r"""The log density of a draw less the log density of its noise, ``(...)``.

        The density of the draw is with respect to the volume of the subspace without rotations.
        If the factor is per feature, the noise has :math:`m` more dimensions than this subspace,
        one per rotation. Let :math:`Q` be an orthonormal basis of :math:`A = F^{-1} R`, for
        rotations :math:`R`. Draws do not depend on :math:`Q^\top \varepsilon`, and the log ratio is

        .. math::
            \tfrac12 \bigl( \log \det I - \log \det A^\top A
            + \|Q^\top \varepsilon\|^2 + m \log 2 \pi \bigr).

        Args:
            noise: standard normal noise, ``(..., noise_dim)``.
        """
        ratio = (0.5 * self.log_det_information).expand(noise.shape[:-1])
        if self.factor.dim() == 2 or not self.rotations.shape[1]:
            return ratio
        basis, triangle = self._idle_noise
        idle = (noise @ basis).square().sum(-1) + basis.shape[1] * math.log(2 * math.pi)
        return ratio + 0.5 * idle - triangle.diagonal().abs().log().sum()

    @cached_property
    def _idle_noise(self) -> tuple[Tensor, Tensor]:
        """The QR factors of :math:`F^{-1} R`; noise along its columns only rotates latents."""
        rotations = self.rotations.unflatten(0, self.factor.shape[:2])
        basis, triangle = torch.linalg.qr(
            (torch.linalg.pinv(self.factor) @ rotations).flatten(0, 1)
        )
        return basis, triangle

    @cached_property
    def sandwich(self) -> CoefficientPosterior:
        r"""The normal with the same mean and the sandwich covariance.

        It is :math:`I^{-1} \bigl( \sum_s g_s g_s^\top + P \bigr) I^{-1}` with the information
        :math:`I` of evidence and prior, the gradient :math:`g_s` of the log evidence of row
        :math:`s` and the precision :math:`P` of the prior. Rotations are projected out.

        The spread of the scores is measured, not taken from the model. Intervals therefore cover
        the coefficients of the best approximation to the true law of the rows, even if the model is
        wrong, provided that rows are many and independent of each other. If the model is right,
        the sandwich estimates :attr:`covariance` with some noise: from :math:`N` rows, a variance
        has a relative error of about :math:`\sqrt{2 / N}`, and more if few rows dominate. The
        weights of entries are part of the score of their row, so that a row of weight 2 does not
        count as two rows.

        Source: Huber (1967); White (1982); Müller (2013) for posteriors.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.full((50, 4), 2.0))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), num_features=4, latent_dim=1)
            >>> guide = pef.LaplaceGuide(model, globals="laplace")
            >>> _ = guide.fit(y)
            >>> guide.coefficients.sandwich.variance().shape
            torch.Size([4, 2])
        """
        values, vectors = torch.linalg.eigh(self.score_covariance)
        # With fewer rows than coefficients, some directions have no score.
        smallest = torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
        values = values.clamp(min=smallest)
        root = vectors * values.sqrt()[..., None, :]
        return replace(
            self,
            factor=self.factor @ root,
            log_det_information=self.log_det_information - values.log().sum(),
            score_covariance=torch.linalg.inv(root)
            @ self.score_covariance
            @ torch.linalg.inv(root).mT,
        )


def coefficient_posterior(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, free: Tensor
) -> CoefficientPosterior:
    r"""The normal whose precision is the information at a maximum of the evidence.

    The mean is :math:`\hat\theta - \tfrac12 C\, \nabla \log \det I(\hat\theta)` with the mode
    :math:`\hat\theta` and the covariance :math:`C`. It corrects for the skewness of the posterior,
    which is strongest along the scale of the loadings. All columns together move along a change of
    scale or location of the latents. If the rest of a column's correction is longer than 1.25
    posterior standard deviations, the expansion does not hold. Such a column is unreliable, and its
    mean is the mode.

    With more than 3,000 coefficients, features are taken as independent of each other, and the mean
    of every column is the mode. The length of a correction is then computed as if the latents were
    known.

    Args:
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``; 0 for a
            flat prior.
        z: the root of the problem, ``(N, l)``.
        free: booleans ``(l + 1,)``, False for coefficients that are known.

    Raises:
        ValueError: if the information is not positive definite.

    Source: Tierney and Kadane (1986).
    """
    information = KeptInformation()
    covariance = coefficient_covariance(problem, prior_precision, z, free, information)
    return _with_mean(problem, prior_precision, z, covariance, information)


def posterior_at_maximum(
    problem: LatentProblem, prior_precision: Tensor, solver: Solver, free: Tensor
) -> tuple[LatentProblem, Tensor, CoefficientPosterior]:
    """The problem at the maximum of the evidence, its root, and the posterior there.

    Arguments and errors are as in :func:`maximum_with_covariance` and
    :func:`coefficient_posterior`.
    """
    information = KeptInformation()
    problem, z, covariance = maximum_with_covariance(
        problem, prior_precision, solver, free, information=information
    )
    return problem, z, _with_mean(problem, prior_precision, z, covariance, information)


def _with_mean(
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
    covariance: CoefficientCovariance,
    information: KeptInformation,
) -> CoefficientPosterior:
    """The posterior from its covariance: adds the mean and the covariance of the scores."""
    mode, factor, rotations = covariance.mode, covariance.factor, covariance.rotations
    if factor.dim() == 2:
        skew = information.weighted_gradient(factor @ factor.mT)
        shift = -0.5 * (factor @ (factor.mT @ skew.flatten())).view_as(skew)
        own = _without_common_part(shift, mode[:, : problem.latent_dim], factor)
        too_long = _is_too_long(own, factor.unflatten(0, mode.shape))
        unreliable, of_predictors = _any_of_column(problem, too_long)
        shift = shift.where(~of_predictors[:, None], 0.0)
        mean = mode + shift - (rotations @ (rotations.mT @ shift.flatten())).view_as(shift)
        scores = score_products(problem, z)
        precision = by_predictor(prior_precision, mode).flatten()
    else:
        skew = complete_information_gradient(problem, factor @ factor.mT, z)
        by_feature = skew.reshape(*factor.shape[:2], 1)
        shift = -0.5 * (factor @ (factor.mT @ by_feature)).view_as(skew)
        too_long = _is_too_long(shift, factor.reshape(*mode.shape, -1))
        unreliable, mean = _any_of_column(problem, too_long)[0], mode
        scores = score_products_by_feature(problem, z)
        precision = by_predictor(prior_precision, mode).reshape(factor.shape[:2])
    scores = factor.mT @ (scores @ factor + precision.double()[..., None] * factor)
    return CoefficientPosterior(
        mode=mode,
        factor=factor,
        rotations=rotations,
        log_det_information=covariance.log_det_information,
        mean=mean,
        score_covariance=scores,
        unreliable_columns=unreliable,
    )


def _any_of_column(problem: LatentProblem, of_predictors: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a predictor of each column is among some, and the same by predictor."""
    levels = problem.levels
    if problem.family.num_columns is None:
        found = of_predictors.unflatten(0, (-1, levels)).any(-1)
        return found, found.repeat_interleave(levels)
    owners = problem.column_of_predictor
    found = of_predictors.new_zeros(problem.num_columns).index_put(
        (owners,), of_predictors, accumulate=True
    )
    return found, found[owners]


def _without_common_part(shift: Tensor, W: Tensor, factor: Tensor) -> Tensor:
    """A shift ``(d, l + 1)`` less the part that a change of basis of the latents makes.

    A scale or a location of the latents moves all columns together, by :math:`W A` and :math:`W c`.
    Its uncertainty comes from the rows and does not grow with the number of columns, while all
    columns add to the correction for skewness along it. The correction then is several standard
    deviations long, and yet a small part of the loading. The part taken away is the nearest in
    posterior standard deviations of the columns. Nothing is taken away if it is a large change.
    """
    size = shift.shape[1]
    by_feature = torch.linalg.pinv(factor.unflatten(0, shift.shape))
    directions = torch.einsum("ij,kr->ikjr", W, torch.eye(size).to(W)).flatten(2)
    found = torch.linalg.lstsq(
        (by_feature @ directions).flatten(0, 1),
        (by_feature @ shift[..., None]).flatten(0, 1),
        driver="gelsd",
    ).solution
    change = torch.linalg.matrix_norm(found.view(-1, size), 2)
    return shift - (directions @ found)[..., 0] * (change <= LARGEST_COMMON_CHANGE)


def _is_too_long(shift: Tensor, factor: Tensor) -> Tensor:
    """Whether a shift ``(d, l + 1)`` is too long, in standard deviations per predictor, ``(d,)``.

    The factor of the covariance is per linear predictor, ``(d, l + 1, k)``.
    """
    return (torch.linalg.pinv(factor) @ shift[..., None]).norm(dim=(-2, -1)) > LARGEST_SHIFT
