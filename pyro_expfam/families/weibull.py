"""The Weibull family of known shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.exponential_law import Exponential
from pyro_expfam.families.positive import as_like, known_or_learnt
from pyro_expfam.families.transformed import Transformed

_EXPONENTIAL = Exponential()
_EULER = 0.5772156649015329


@dataclass(frozen=True, eq=False, repr=False)
class Weibull(Transformed):
    r"""Durations whose hazard is a power of time, by the log mean of their power.

    .. math:: E[y^k] = e^\eta, \quad p(y) = k y^{k - 1} e^{-\eta} \exp(-y^k e^{-\eta}), \quad y > 0.

    The power :math:`y^k` follows an exponential law with log mean :math:`\eta`, and :math:`-\eta`
    is the log of the hazard at time 1, over ``k``. The hazard rises for a shape above 1, and falls
    for a shape below 1. The scale of the usual form is :math:`e^{\eta / k}`.

    Source: Kalbfleisch and Prentice (2002), *The statistical analysis of failure time data*,
    section 2.2.2.

    Args:
        shape: the shape ``k``, a positive number, or a tensor, an array, a series or a list of such
            numbers that broadcasts against observations, for instance ``(d,)`` for one per column.
            Gradients flow to a tensor. Without it a block learns one per column, and with
            ``"shared"`` one for all columns.

    Raises:
        TypeError: ``shape`` does not hold real numbers.
        ValueError: ``shape`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Weibull
        >>> Weibull(shape=2.0).expected_y(torch.tensor([0.0, 1.0]))
        tensor([0.8862, 1.4611])
    """

    shape: float | Tensor | str | None = None

    self_concordance: ClassVar[float] = 1.0
    is_convex: ClassVar[bool] = True
    bounded_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", known_or_learnt("shape", self.shape))

    @property
    def base(self) -> Family:
        """The exponential law, of the power of an observation."""
        return _EXPONENTIAL

    @property
    def support(self) -> constraints.Constraint:
        """The positive numbers."""
        return constraints.positive

    def transform(self, y: Tensor) -> Tensor:
        """The power ``y ** k``."""
        return y ** as_like(self.shape, y, "shape")

    def inverse(self, transformed: Tensor) -> Tensor:
        """The root of degree ``k``."""
        root = transformed ** (1 / as_like(self.shape, transformed, "shape"))
        # A draw that rounds to zero is outside of the support.
        return root.clamp(min=torch.finfo(root.dtype).tiny)

    def check_rows(
        self, y: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Raises a ValueError if a power of an observation is too large or small for the format."""
        del weights
        if mask is not None:
            y = torch.where(mask, y, 1.0)
        for extreme in (y.amax(-2, keepdim=True), y.amin(-2, keepdim=True)):
            value = extreme.to(dtype)
            power = self.transform(value)
            lost = (value > 0) & value.isfinite() & ~((power > 0) & power.isfinite())
            if bool(lost.any()):
                place = tuple(lost.nonzero()[0].tolist())
                shape = as_like(self.shape, value, "shape").expand_as(power)[place]
                name = str(dtype).removeprefix("torch.")
                raise ValueError(
                    f"y must have powers y ** shape that {name} can hold, got "
                    f"{float(value.expand_as(power)[place]):g} ** {float(shape):g}: divide the "
                    "table by a typical duration, or take double precision, as by model.double()"
                )

    def log_slope(self, y: Tensor) -> Tensor:
        """The log of ``k y ** (k - 1)``."""
        shape = as_like(self.shape, y, "shape")
        return torch.log(shape) + (shape - 1) * torch.log(y)

    def expected_y(self, eta: Tensor) -> Tensor:
        r"""The mean :math:`e^{\eta / k} \Gamma(1 + 1 / k)`."""
        return torch.exp(self._log_moment(eta, 1))

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance."""
        return torch.exp(self._log_moment(eta, 2)) - self.expected_y(eta).square()

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of an observation."""
        shape = as_like(self.shape, y, "shape")
        return shape * (torch.log(y) - torch.lgamma(1 + 1 / shape))

    def entropy(self, eta: Tensor) -> Tensor:
        r"""The entropy :math:`\gamma (1 - 1 / k) + \eta / k - \log k + 1` in nats."""
        shape = as_like(self.shape, eta, "shape")
        return _EULER * (1 - 1 / shape) + eta / shape - torch.log(shape) + 1

    def _log_moment(self, eta: Tensor, order: int) -> Tensor:
        """The log of the expectation of a power of ``y``."""
        power = order / as_like(self.shape, eta, "shape")
        return power * eta + torch.lgamma(1 + power)
