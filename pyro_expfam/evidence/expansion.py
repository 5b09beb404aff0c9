"""The derivatives of the log posterior of latents at its root."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_expfam.deq.curvature import Curvature, WithTerm
from pyro_expfam.deq.positive_definite import cholesky, inverse_lower
from pyro_expfam.deq.problem import LatentProblem


@dataclass(frozen=True, eq=False)
class Expansion:
    """Derivatives of the log posterior of latents at its root.

    Attributes:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``.
    """

    problem: LatentProblem
    z: Tensor

    @cached_property
    def eta(self) -> Tensor:
        """The linear predictors, ``(..., N, d)``."""
        return self.problem.predictor(self.z)

    @cached_property
    def losses(self) -> Curvature:
        """The derivatives of the losses in the latents, and of a further term if there is one."""
        of_table, term = self.problem.curvature(self.eta), self.problem.term
        return of_table if term is None else WithTerm(of_table, term, self.z)

    @cached_property
    def curvature(self) -> Tensor:
        r"""The weighted curvatures :math:`v_i = \omega_i \ell''_i`, ``(..., N, d)``."""
        return self.losses.second

    @cached_property
    def factor(self) -> Tensor:
        """The lower Cholesky factor of the information, ``(..., N, l, l)``."""
        factor, _ = cholesky(self.losses.gram() + self.problem.prior_information())
        return factor

    @cached_property
    def whitening(self) -> Tensor:
        """The inverse of the factor, which maps latents to posterior covariance 1."""
        return inverse_lower(self.factor)

    @cached_property
    def covariance(self) -> Tensor:
        """The posterior covariance ``C``, the inverse of the information, ``(..., N, l, l)``."""
        return self.whitening.mT @ self.whitening

    @cached_property
    def definite_information(self) -> Tensor:
        """The information, or the expected one where a loss is not convex, ``(..., N, l, l)``.

        The second derivatives are not positive definite at a saddle between two modes, and near it.
        There the expected information of the entries stands in their place.
        """
        observed = self.losses.gram() + self.problem.prior_information()
        if self.problem.is_convex:
            return observed
        exists = cholesky(observed.detach())[1]
        of_entries = self.problem.map.gram(self.problem.informations(self.eta))
        expected = of_entries + self.problem.prior_information()
        return torch.where(exists[..., None, None], observed, expected)

    @cached_property
    def definite_covariance(self) -> Tensor:
        """The inverse of :attr:`definite_information`, ``(..., N, l, l)``."""
        whitening = inverse_lower(cholesky(self.definite_information)[0])
        return whitening.mT @ whitening

    @cached_property
    def predictor_variance(self) -> Tensor:
        r"""Posterior variances :math:`s_i = w_i^\top C w_i` of linear predictors."""
        return self.losses.forms(self.covariance)

    @cached_property
    def log_det_slope(self) -> Tensor:
        """The gradient of the log determinant of the information in the linear predictors."""
        return self.losses.gram_slope(self.predictor_variance)

    @cached_property
    def third(self) -> Tensor:
        r"""The weighted third derivatives :math:`k_i = \omega_i \ell'''_i`, ``(..., N, d)``."""
        return self.losses.third_by_entry

    @cached_property
    def fourth(self) -> Tensor:
        r"""The weighted fourth derivatives :math:`\omega_i \ell''''_i`, ``(..., N, d)``."""
        return self.losses.fourth_by_entry

    @cached_property
    def skew(self) -> Tensor:
        r"""The vector :math:`t = \sum_i k_i s_i w_i`, ``(..., N, l)``.

        It is the gradient in the latents of the log determinant of the information.
        """
        of_table = self.problem.map.transpose(self.log_det_slope)
        if self.problem.term is None:
            return of_table
        third = self.problem.term.third(self.z)
        return of_table + torch.einsum("...abc,...ab->...c", third, self.covariance)

    def log_det_information(self) -> Tensor:
        """The log determinant of the information, ``(..., N)``."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def widest_variance(problem: LatentProblem, z: Tensor) -> Tensor:
    """The largest posterior variance of the latents of each row by Laplace, ``(..., N)``.

    It is NaN where the information is not positive definite, as at a saddle. There the posterior is
    not normal around ``z``.

    Args:
        problem: the problem of the latents.
        z: the latents, ``(..., N, l)``.
    """
    information = problem.double().information(z.double())
    finite = information.isfinite().all(-1).all(-1)
    eye = torch.eye(z.shape[-1], dtype=information.dtype, device=information.device)
    # One matrix that is not finite is an error for all of them.
    usable = torch.where(finite[..., None, None], information, -eye)
    least = torch.linalg.eigvalsh(usable)[..., 0]
    return torch.where(least > 0, 1 / least, torch.nan)


def without_gradient_at_saddles(problem: LatentProblem, z: Tensor) -> Tensor:
    """Latents ``z`` ``(..., N, l)`` that do not move with the parameters at saddles.

    The implicit function theorem does not hold where the information is not positive definite.
    """
    if problem.is_convex:
        return z
    with torch.no_grad():
        exists = cholesky(problem.information(z))[1]
    return torch.where(exists.unsqueeze(-1), z, z.detach())
