"""Links for means without an upper bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.links.link import Link
from pyro_expfam.links.log_rates import log_softplus
from pyro_expfam.links.logistic import softplus_of_tails

_WIDE = 100_000.0
"""The scale of the prior of an intercept that is a mean, which may be far from zero."""

_WIDE_LOADING = 1_000.0
"""The scale of the prior of a loading by which latents move a mean in its own units."""


@dataclass(frozen=True)
class Identity(Link):
    r"""The mean is the linear predictor.

    Example:
        >>> import torch
        >>> Identity().mean(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  2.])
    """

    weak_loading_scale: ClassVar[float] = _WIDE_LOADING
    weak_intercept_scale: ClassVar[float] = _WIDE

    def mean(self, eta: Tensor) -> Tensor:
        """The linear predictor."""
        return eta

    def predictor(self, mean: Tensor) -> Tensor:
        """The mean."""
        return mean


@dataclass(frozen=True)
class Log(Link):
    r"""The mean is :math:`e^\eta`.

    Example:
        >>> import torch
        >>> Log().mean(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 2.7183])
    """

    def mean(self, eta: Tensor) -> Tensor:
        """The exponential of the linear predictor."""
        return torch.exp(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        """The logarithm of the mean."""
        return torch.log(mean.clamp(min=0))

    def log_mean(self, eta: Tensor) -> Tensor:
        """The linear predictor."""
        return eta


@dataclass(frozen=True)
class Softplus(Link):
    r"""The mean is :math:`\log(1 + e^\eta)`.

    It is close to :math:`e^\eta` where it is small, and to :math:`\eta` where it is large.

    Example:
        >>> import torch
        >>> Softplus().mean(torch.tensor([-5.0, 0.0, 5.0]))
        tensor([0.0067, 0.6931, 5.0067])
    """

    weak_loading_scale: ClassVar[float] = _WIDE_LOADING
    weak_intercept_scale: ClassVar[float] = _WIDE

    def mean(self, eta: Tensor) -> Tensor:
        r"""The function :math:`\log(1 + e^\eta)`."""
        return softplus_of_tails(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        r"""The function :math:`\log(e^\mu - 1)`."""
        positive = mean.clamp(min=0)
        return positive + torch.log(-torch.expm1(-positive))

    def log_mean(self, eta: Tensor) -> Tensor:
        r"""The function :math:`\log \log(1 + e^\eta)`, accurate in both tails."""
        return log_softplus(eta)


@dataclass(frozen=True)
class ReLU(Link):
    r"""The mean is :math:`\max(\eta, 0)`.

    A row may have several stationary points, since the loss has a kink at zero. An expansion does
    not see the kink: the second order of the evidence warns.

    Example:
        >>> import torch
        >>> ReLU().mean(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    is_smooth: ClassVar[bool] = False
    weak_loading_scale: ClassVar[float] = _WIDE_LOADING
    weak_intercept_scale: ClassVar[float] = _WIDE

    def mean(self, eta: Tensor) -> Tensor:
        """The positive part of the linear predictor."""
        return torch.relu(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        """The mean; a negative one gives the mean 0."""
        return mean


@dataclass(frozen=True)
class Power(Link):
    r"""The linear predictor is a power of the mean, :math:`\eta = \mu^q`, for positive predictors.

    ``Power(1)`` is the identity of positive predictors. Distributions take this link. A linear
    predictor ``W z + b`` takes any value, so the layer does not.

    Args:
        exponent: the power ``q``, finite and not 0.

    Raises:
        ValueError: ``exponent`` is 0 or not finite.

    Example:
        >>> import torch
        >>> Power(0.5).mean(torch.tensor([1.0, 3.0]))
        tensor([1., 9.])
    """

    exponent: float

    domain: ClassVar[constraints.Constraint] = constraints.positive
    weak_loading_scale: ClassVar[float] = _WIDE_LOADING
    weak_intercept_scale: ClassVar[float] = _WIDE

    def __post_init__(self) -> None:
        if not math.isfinite(self.exponent) or self.exponent == 0:
            raise ValueError(
                f"exponent must be finite and not 0, got {self.exponent}: the limit at 0 is Log()"
            )
        object.__setattr__(self, "exponent", float(self.exponent))

    def mean(self, eta: Tensor) -> Tensor:
        """The predictor to the power of one over the exponent."""
        return eta ** (1 / self.exponent)

    def predictor(self, mean: Tensor) -> Tensor:
        """The mean to the power of the exponent."""
        return mean.clamp(min=0) ** self.exponent

    def log_mean(self, eta: Tensor) -> Tensor:
        """The log of the predictor over the exponent."""
        return torch.log(eta) / self.exponent


@dataclass(frozen=True)
class Reciprocal(Link):
    r"""The mean is :math:`1 / \eta`, for positive predictors.

    Distributions take this link. A linear predictor ``W z + b`` takes any value, so the layer does
    not.

    Example:
        >>> import torch
        >>> Reciprocal().mean(torch.tensor([0.5, 4.0]))
        tensor([2.0000, 0.2500])
    """

    domain: ClassVar[constraints.Constraint] = constraints.positive
    weak_loading_scale: ClassVar[float] = _WIDE_LOADING
    weak_intercept_scale: ClassVar[float] = _WIDE

    def mean(self, eta: Tensor) -> Tensor:
        """One over the predictor."""
        return eta.reciprocal()

    def predictor(self, mean: Tensor) -> Tensor:
        """One over the mean."""
        return mean.clamp(min=0).reciprocal()

    def log_mean(self, eta: Tensor) -> Tensor:
        """Minus the log of the predictor."""
        return -torch.log(eta)
