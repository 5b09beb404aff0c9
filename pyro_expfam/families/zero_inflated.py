"""Counts with more zeros than their family has."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.negative_binomial import NegativeBinomial
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.positive import as_like, known_or_learnt

_POISSON = Poisson()


class ZeroInflated(Family):
    r"""Counts that are zero for sure with some probability, and follow :attr:`base` otherwise.

    .. math:: P(0) = \pi + (1 - \pi) P'(0), \quad P(y) = (1 - \pi) P'(y), \quad y > 0.

    The loss is not convex: a zero says little where the rate is large. Steps use the Fisher
    information, and a row may have several stationary points. The second order of the evidence has
    no bound in such rows: take the first order, or quadrature by nodes.

    Source: Lambert (1992), *Zero-inflated Poisson regression, with an application to defects in
    manufacturing*.
    """

    zero_probability: float | Tensor | str | None

    parameter_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "zero_probability": constraints.unit_interval
    }
    parameter_starts: ClassVar[dict[str, float]] = {"zero_probability": 0.1}

    zeros_end: ClassVar[float] = math.inf
    """Where predictors are larger, no zero is counted: the probability is below any number."""

    @property
    @abstractmethod
    def base(self) -> Family:
        """The family of the counts that may be positive, with the log of its mean as predictor."""

    @abstractmethod
    def information_of_base(self, eta: Tensor) -> Tensor:
        """The Fisher information of a count of :attr:`base`."""

    @property
    def support(self) -> constraints.Constraint:
        """The non-negative integers."""
        return constraints.nonnegative_integer

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of a count."""
        share = self._share(eta)
        counts = self.base.log_prob(y, self._for_zeros(eta, y)) + torch.log1p(-share)
        zero = torch.logaddexp(torch.log(share), counts)
        return torch.where(y == 0, zero, counts)

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The terms that the loss of :attr:`base` leaves out; a zero has none."""
        return self.base.log_base_measure(y)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log probability up to terms free of ``eta``, without a factorial of a count."""
        share = self._share(eta)
        # Of a zero the loss of the base is all of minus its log probability.
        counts = self.base.loss(self._for_zeros(eta, y), y) - torch.log1p(-share)
        zero = -torch.logaddexp(torch.log(share), -counts)
        return torch.where(y == 0, zero, counts)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of the loss."""
        at = self._at_zero(eta)
        of_zero = self._counted(at) * self.base.score(at, torch.zeros_like(at))
        return torch.where(y == 0, of_zero, self.base.score(self._for_zeros(eta, y), y))

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        r"""The second derivative of the loss, of a zero :math:`r (c_0 - (1 - r) s_0^2)`.

        Here ``r`` is the probability that a zero was counted, and :math:`c_0` and :math:`s_0` are
        curvature and score of a zero of :attr:`base`.
        """
        at = self._at_zero(eta)
        counted, zero = self._counted(at), torch.zeros_like(at)
        lost = (1 - counted) * self.base.score(at, zero).square()
        of_zero = counted * (self.base.curvature(at, zero) - lost)
        return torch.where(y == 0, of_zero, self.base.curvature(self._for_zeros(eta, y), y))

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        r"""The Fisher information :math:`(1 - \pi) (J - P'(0) (1 - r) s_0^2)`.

        Here ``J`` is the Fisher information of the base, :math:`s_0` its score of a zero, and ``r``
        the probability that a zero was counted.
        """
        at, zero = self._at_zero(eta), torch.zeros_like(eta)
        lost = (
            torch.exp(self.base.log_prob(zero, at))
            * (1 - self._counted(at))
            * self.base.score(at, zero).square()
        )
        share = self._share(eta)
        return ((1 - share) * (self.information_of_base(eta) - lost)).clamp(
            min=0
        ) + torch.zeros_like(y)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """The deviance of an observation; a zero is certain at a mean of 0."""
        return torch.where(y == 0, -2 * self.log_prob(y, eta), self.base.deviance(y, eta))

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        """The largest log probability of ``y`` over all linear predictors."""
        counts = self.base.saturated_log_prob(y) + torch.log1p(-self._share(y))
        return torch.where(y == 0, 0.0, counts)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of a count, zeros among them."""
        return (1 - self._share(eta)) * torch.exp(eta)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of a count."""
        share, mean = self._share(eta), torch.exp(eta)
        return (1 - share) * (self.base.variance_of_y(eta) + share * mean.square())

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of a count."""
        return torch.log(y) - torch.log1p(-self._share(y))

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the parameters."""
        share = self._share(eta)
        counts = self.base.sample(
            eta.expand(torch.broadcast_shapes(eta.shape, share.shape)), sample_shape
        )
        return torch.where(torch.rand_like(counts) < share, 0.0, counts)

    def _share(self, like: Tensor) -> Tensor:
        return as_like(self.zero_probability, like, "zero_probability")

    def _at_zero(self, eta: Tensor) -> Tensor:
        """Predictors at which zeros are counted, or would be, without an infinite mean."""
        return eta.clamp(max=self.zeros_end)

    def _for_zeros(self, eta: Tensor, y: Tensor) -> Tensor:
        """Predictors at which zeros have no infinite mean.

        Beside it a zero would bring zero times infinity, and so would its gradient.
        """
        return torch.where(y == 0, self._at_zero(eta), eta)

    def _counted(self, eta: Tensor) -> Tensor:
        """The probability that a zero was counted, and is no zero for sure."""
        share = self._share(eta)
        odds = torch.log1p(-share) - torch.log(share)
        return torch.sigmoid(odds + self.base.log_prob(torch.zeros_like(eta), eta))


@dataclass(frozen=True, eq=False, repr=False)
class ZeroInflatedPoisson(ZeroInflated):
    r"""Poisson counts with additional zeros, by the log rate of the Poisson law.

    .. math:: P(0) = \pi + (1 - \pi) e^{-\lambda}, \quad
              P(y) = (1 - \pi) e^{-\lambda} \lambda^y / y!, \quad \lambda = e^\eta.

    The loss is not convex: a row may have several stationary points. Do not take the second order
    of the evidence, which has no bound in such rows.

    Source: Lambert (1992), *Zero-inflated Poisson regression, with an application to defects in
    manufacturing*.

    Args:
        zero_probability: the probability of an additional zero, above 0 and below 1: a number, or a
            tensor, an array, a series or a list of such numbers that broadcasts against
            observations, for instance ``(d,)`` for one per column. Gradients flow to a tensor.
            Without it a block learns one per column, and with ``"shared"`` one for all columns.

    Raises:
        TypeError: ``zero_probability`` does not hold real numbers.
        ValueError: ``zero_probability`` is not between 0 and 1.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import ZeroInflatedPoisson
        >>> family = ZeroInflatedPoisson(zero_probability=0.5)
        >>> family.log_prob(torch.tensor([0.0, 1.0]), torch.tensor(0.0)).exp()
        tensor([0.6839, 0.1839])
    """

    zero_probability: float | Tensor | str | None = None

    zeros_end: ClassVar[float] = 40.0

    def __post_init__(self) -> None:
        value = probability("zero_probability", self.zero_probability)
        object.__setattr__(self, "zero_probability", value)

    @property
    def base(self) -> Family:
        """The Poisson family."""
        return _POISSON

    def information_of_base(self, eta: Tensor) -> Tensor:
        """The mean."""
        return torch.exp(eta)


@dataclass(frozen=True, eq=False, repr=False)
class ZeroInflatedNegativeBinomial(ZeroInflated):
    r"""Negative binomial counts with additional zeros, by the log mean of the other counts.

    .. math:: P(0) = \pi + (1 - \pi) (1 + e^\eta / r)^{-r}.

    The loss is not convex: a row may have several stationary points. Do not take the second order
    of the evidence, which has no bound in such rows.

    Source: Greene (1994), *Accounting for excess zeros and sample selection in Poisson and negative
    binomial regression models*.

    Args:
        size: the size ``r`` of :class:`~pyro_expfam.families.NegativeBinomial`, positive.
        zero_probability: the probability of an additional zero, above 0 and below 1. Both are
            numbers, or tensors, arrays, series or lists of numbers that broadcast against
            observations, for instance ``(d,)`` for one per column. Gradients flow to tensors.
            What is left out a block learns, one per column, and with ``"shared"`` one for all
            columns.

    Raises:
        TypeError: an argument does not hold real numbers.
        ValueError: ``size`` is not positive and finite, or ``zero_probability`` is not between 0
            and 1.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import ZeroInflatedNegativeBinomial
        >>> family = ZeroInflatedNegativeBinomial(size=1.0, zero_probability=0.5)
        >>> family.log_prob(torch.tensor([0.0, 1.0]), torch.tensor(0.0)).exp()
        tensor([0.7500, 0.1250])
    """

    size: float | Tensor | str | None = None
    zero_probability: float | Tensor | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", known_or_learnt("size", self.size))
        value = probability("zero_probability", self.zero_probability)
        object.__setattr__(self, "zero_probability", value)

    @property
    def base(self) -> Family:
        """The negative binomial family."""
        return NegativeBinomial(self.size)

    def information_of_base(self, eta: Tensor) -> Tensor:
        r"""The number :math:`r \mu / (r + \mu)` for the mean :math:`\mu`."""
        size = as_like(self.size, eta, "size")
        return size * torch.sigmoid(eta - torch.log(size))


def probability(name: str, value: object) -> float | Tensor | str | None:
    """A parameter between 0 and 1, or None or ``"shared"`` for one that is to be learnt.

    Raises:
        TypeError: it holds no real numbers.
        ValueError: it is not between 0 and 1.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value:g}")
    value = known_or_learnt(name, value)
    if value is None or isinstance(value, str):
        return value
    is_below = value < 1
    if not bool(is_below.all() if isinstance(is_below, Tensor) else is_below):
        largest = float(value.detach().max()) if isinstance(value, Tensor) else value
        raise ValueError(f"{name} must be between 0 and 1, got {largest:g}")
    return value
