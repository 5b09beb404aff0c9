"""The Pareto family of known scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.exponential_law import Exponential
from pyro_expfam.families.positive import as_like, positive
from pyro_expfam.families.transformed import Transformed

_EXPONENTIAL = Exponential()


@dataclass(frozen=True, eq=False, repr=False)
class Pareto(Transformed):
    r"""Numbers above a threshold with a power tail, by the log mean of their log ratio to it.

    .. math:: E[\log(y / m)] = e^\eta, \quad P(y > t) = (t / m)^{-\alpha}, \quad
              \alpha = e^{-\eta}, \quad y > m.

    The log ratio :math:`\log(y / m)` follows an exponential law with log mean :math:`\eta`. The
    mean of ``y`` is infinite from :math:`\eta = 0` on, and its variance from
    :math:`\eta = -\log 2` on.

    Source: Johnson, Kotz and Balakrishnan (1994), *Continuous univariate distributions*, volume 1,
    chapter 20.

    Args:
        scale: the threshold ``m``, a positive number, or a tensor, an array, a series or a list of
            such numbers that broadcasts against observations, for instance ``(d,)`` for one per
            column. It must be known.

    Raises:
        TypeError: ``scale`` does not hold real numbers.
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Pareto
        >>> Pareto(scale=2.0).expected_y(torch.tensor([-1.0, 0.0]))
        tensor([3.1640,    inf])
    """

    scale: float | Tensor

    self_concordance: ClassVar[float] = 1.0
    is_convex: ClassVar[bool] = True
    bounded_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", positive("scale", self.scale))

    @property
    def base(self) -> Family:
        """The exponential law, of the log ratio of an observation to the threshold."""
        return _EXPONENTIAL

    @property
    def support(self) -> constraints.Constraint:
        """The numbers above the scale."""
        return constraints.greater_than(self.scale)

    @property
    def placeholder(self) -> float:
        """Twice the largest scale."""
        return 2 * float(torch.as_tensor(self.scale).max())

    def transform(self, y: Tensor) -> Tensor:
        """The log ratio to the scale, accurate close to the scale too."""
        scale = as_like(self.scale, y, "scale")
        return torch.log1p((y - scale) / scale)

    def inverse(self, transformed: Tensor) -> Tensor:
        """The scale times the exponential, a finite number above the scale."""
        scale = as_like(self.scale, transformed, "scale")
        value = scale + scale * torch.expm1(transformed)
        above = torch.nextafter(scale, torch.full_like(scale, torch.inf))
        return torch.maximum(value, above).clamp(max=torch.finfo(value.dtype).max)

    def log_slope(self, y: Tensor) -> Tensor:
        """Minus the log of ``y``."""
        return -torch.log(y)

    def expected_y(self, eta: Tensor) -> Tensor:
        r"""The mean :math:`m \alpha / (\alpha - 1)`, infinite unless :math:`\alpha > 1`."""
        scale = as_like(self.scale, eta, "scale")
        mean = scale / torch.where(eta < 0, -torch.expm1(eta), 1.0)
        return torch.where(eta < 0, mean, torch.inf)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        r"""The variance, infinite unless :math:`\alpha > 2`."""
        scale, alpha = as_like(self.scale, eta, "scale"), torch.exp(-eta)
        exists = alpha > 2
        safe = torch.where(exists, alpha, 3.0)
        variance = scale.square() * safe / ((safe - 1).square() * (safe - 2))
        return torch.where(exists, variance, torch.inf)

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean, ``log(1 - m / y)``."""
        return torch.log((y - as_like(self.scale, y, "scale")) / y)

    def entropy(self, eta: Tensor) -> Tensor:
        r"""The entropy :math:`\log m + \eta + 1 + e^\eta` in nats."""
        return torch.log(as_like(self.scale, eta, "scale")) + eta + 1 + torch.exp(eta)
