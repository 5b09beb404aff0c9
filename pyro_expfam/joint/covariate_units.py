"""Units of covariates in which a fit of a table is well conditioned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR_FROM_ZERO = 10.0
"""A covariate whose mean is so many standard deviations from zero, such as a year, is far away."""


@dataclass(frozen=True, eq=False)
class CovariateUnits:
    r"""Covariates :math:`x' = (x - m) / s` in place of :math:`x`.

    With coefficients :math:`C' = s C` and the intercept :math:`b' = b + C m` the linear predictors
    are the same. So are priors of the coefficients in their own units. A prior of the intercept is
    a prior of :math:`b`, not of :math:`b'`, so that covariates are centred under a flat one alone.

    Units are powers of two, and centres are multiples of them: processes that sum in another order
    have the same.

    Attributes:
        centre: :math:`m`, ``(p,)``, in float64.
        unit: :math:`s`, ``(p,)``, in float64.
    """

    centre: Tensor
    unit: Tensor

    @classmethod
    def of(cls, gram: Tensor, centred: bool) -> CovariateUnits:
        """The units of a table.

        Args:
            gram: the sum over rows of the products of ``(1, x)``, ``(1 + p, 1 + p)``.
            centred: whether covariates may be centred.
        """
        mean, deviation = mean_and_deviation(gram)
        if centred:
            unit = _power_of_two(deviation)
            return cls((mean / unit).round() * unit, unit)
        size = (mean.square() + deviation.square()).sqrt()
        return cls(torch.zeros_like(mean), _power_of_two(size))

    def of_rows(self, x: Tensor) -> Tensor:
        """The covariates of rows ``(n, p)`` in these units."""
        return ((x.double() - self.centre.to(x.device)) / self.unit.to(x.device)).to(x.dtype)

    def gram(self, gram: Tensor) -> Tensor:
        """The products of ``(1, x)`` in these units."""
        change = torch.diag_embed(torch.nn.functional.pad(1 / self.unit, (1, 0), value=1.0))
        change[1:, 0] = -self.centre / self.unit
        return change @ gram @ change.mT

    def precision(self, precision: Tensor) -> Tensor:
        """The prior precisions of coefficients ``(..., p)`` in these units."""
        return precision / self.unit.square().to(precision)

    def to_units(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(d, l + 1 + p)`` in these units."""
        first, intercept, C = self._parts(coefficients)
        intercept = intercept + C @ self.centre.to(C)[:, None]
        return torch.cat([first, intercept, C * self.unit.to(C)], 1).to(coefficients.dtype)

    def from_units(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(d, l + 1 + p)`` in the units of the covariates: the inverse."""
        first, intercept, C = self._parts(coefficients)
        C = C / self.unit.to(C)
        intercept = intercept - C @ self.centre.to(C)[:, None]
        return torch.cat([first, intercept, C], 1).to(coefficients.dtype)

    def _parts(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = coefficients.shape[1] - 1 - len(self.unit)
        parts = coefficients.double().split([size, 1, len(self.unit)], 1)
        return parts[0], parts[1], parts[2]


def mean_and_deviation(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The means of covariates and their standard deviations, ``(p,)``, from their products."""
    mean, num_rows = gram[0, 1:] / gram[0, 0], gram[0, 0]
    square = gram.diagonal()[1:] / num_rows
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def are_far(gram: Tensor) -> Tensor:
    """Which covariates are far from zero, compared with how they spread, ``(p,)``."""
    mean, deviation = (x.abs() for x in mean_and_deviation(gram))
    # A covariate without any spread is as good as an intercept, and is named as such.
    return (1e-6 * mean < deviation) & (deviation < mean / FAR_FROM_ZERO)


def _power_of_two(size: Tensor) -> Tensor:
    """The nearest powers of two, 1 in place of zero."""
    return torch.where(size > 0, size.log2().round().exp2(), 1.0)
