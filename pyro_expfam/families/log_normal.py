"""The log-normal family of known scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.gaussian import Gaussian
from pyro_expfam.families.positive import as_like, known_or_learnt
from pyro_expfam.families.transformed import Transformed


@dataclass(frozen=True, eq=False, repr=False)
class LogNormal(Transformed):
    r"""Positive numbers whose logarithm is normal, by its mean in units of its scale.

    .. math:: \log y \sim N(s \eta, s^2), \quad E[y] = \exp(s \eta + s^2 / 2).

    The logarithm follows the :class:`~pyro_expfam.families.Gaussian` family with scale ``s``, in
    which the linear predictor is the mean over the scale.

    Source: Johnson, Kotz and Balakrishnan (1994), *Continuous univariate distributions*, volume 1,
    chapter 14.

    Args:
        scale: the standard deviation ``s`` of the logarithm, a positive number, or a tensor, an
            array, a series or a list of such numbers that broadcasts against observations, for
            instance ``(d,)`` for one per column. Gradients flow to a tensor. Without it a block
            learns one per column, and with ``"shared"`` one for all columns.

    Raises:
        TypeError: ``scale`` does not hold real numbers.
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import LogNormal
        >>> LogNormal(scale=0.5).expected_y(torch.tensor([0.0, 2.0]))
        tensor([1.1331, 3.0802])
    """

    scale: float | Tensor | str | None = None

    self_concordance: ClassVar[float] = 0.0
    is_convex: ClassVar[bool] = True
    unit_parameters: ClassVar[frozenset[str]] = frozenset({"scale"})
    weak_loading_scale: ClassVar[float] = Gaussian.weak_loading_scale
    weak_intercept_scale: ClassVar[float] = Gaussian.weak_intercept_scale

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", known_or_learnt("scale", self.scale))

    def starts_from(self, y: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """The standard deviations of the logarithms by column."""
        is_known = self.scale is not None and not isinstance(self.scale, str)
        return {} if is_known else Gaussian().starts_from(torch.log(y), weights)

    @property
    def base(self) -> Family:
        """The Gaussian family, of the logarithm of an observation."""
        return Gaussian(self.scale)

    @property
    def support(self) -> constraints.Constraint:
        """The positive numbers."""
        return constraints.positive

    def transform(self, y: Tensor) -> Tensor:
        """The logarithm."""
        return torch.log(y)

    def inverse(self, transformed: Tensor) -> Tensor:
        """The exponential."""
        value = torch.exp(transformed)
        # A draw that rounds to zero is outside of the support.
        return value.clamp(min=torch.finfo(value.dtype).tiny)

    def log_slope(self, y: Tensor) -> Tensor:
        """Minus the logarithm."""
        return -torch.log(y)

    def canonical_form(self, y: Tensor) -> None:
        """None: the entries of the logarithm are canonical themselves."""
        del y

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of an observation."""
        scale = as_like(self.scale, eta, "scale")
        return torch.exp(scale * eta + 0.5 * scale.square())

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of an observation."""
        square = as_like(self.scale, eta, "scale").square()
        return torch.expm1(square) * self.expected_y(eta).square()

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of an observation."""
        scale = as_like(self.scale, y, "scale")
        return torch.log(y) / scale - 0.5 * scale

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats: the entropy of the logarithm plus its mean."""
        return self.base.entropy(eta) + as_like(self.scale, eta, "scale") * eta
