"""The Tweedie family of known power and dispersion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.log_mean import LogMeanFamily
from pyro_expfam.families.positive import as_like, known_or_learnt
from pyro_expfam.links import Link


@dataclass(frozen=True, eq=False, repr=False)
class Tweedie(LogMeanFamily):
    r"""Amounts that are zero or positive, such as rain or claims, by their log mean.

    .. math:: E[y] = e^\eta, \quad \operatorname{Var}[y] = \phi e^{p \eta}, \quad
              \ell(\eta; y) = \frac1\phi \Bigl( \frac{y e^{(1 - p) \eta}}{p - 1}
                              + \frac{e^{(2 - p) \eta}}{2 - p} \Bigr), \quad 1 < p < 2.

    An amount is the sum of a Poisson number of gamma variables. The loss is convex.

    Source: Jørgensen (1997), *The theory of dispersion models*, chapter 4; Dunn and Smyth (2005),
    *Series evaluation of Tweedie exponential dispersion model densities*, for the density.

    Args:
        power: the power ``p`` of the variance, above 1 and below 2. By default it is 1.5.
        dispersion: the dispersion :math:`\phi`, positive. Both are numbers, or tensors, arrays,
            series or lists of numbers that broadcast against observations, for instance ``(d,)``
            for one per column. Gradients flow to tensors. In place of each, None has a block learn
            one per column, and ``"shared"`` one for all columns. A power that is learnt stays
            between 1.01 and 1.99.
        link: how the mean follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Log`.

    Raises:
        TypeError: an argument does not hold real numbers.
        ValueError: ``power`` is not between 1 and 2, or ``dispersion`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Tweedie
        >>> family = Tweedie(power=1.5, dispersion=2.0)
        >>> family.log_prob(torch.tensor([0.0, 1.0]), torch.tensor(0.0))
        tensor([-1.0000, -1.5359])
    """

    power: float | Tensor | str | None = 1.5
    dispersion: float | Tensor | str | None = None

    bounded_variance: ClassVar[bool] = False
    parameter_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "power": constraints.interval(1.01, 1.99)
    }
    parameters_in_units: ClassVar[frozenset[str]] = frozenset({"dispersion"})
    parameter_starts: ClassVar[dict[str, float]] = {"power": 1.5}
    atoms: ClassVar[tuple[float, ...]] = (0.0,)

    def __post_init__(self, link: Link | None) -> None:
        del link
        power = known_or_learnt("power", self.power)
        low, high = _extremes(power)
        if not 1 < low <= high < 2:
            outside = low if low <= 1 else high
            advice = {1.0: ": take Poisson()", 2.0: ": take Gamma(shape)"}.get(outside, "")
            raise ValueError(f"power must be above 1 and below 2, got {outside:g}{advice}")
        object.__setattr__(self, "power", power)
        object.__setattr__(self, "dispersion", known_or_learnt("dispersion", self.dispersion))

    @property
    def self_concordance(self) -> float:  # type: ignore[override]
        r"""The bound :math:`\max(p - 1, 2 - p)`."""
        low, high = _extremes(self.power)
        return max(high - 1, 2 - low)

    @property
    def support(self) -> constraints.Constraint:
        """The numbers from 0 on."""
        return constraints.nonnegative

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The dispersion times a power of the mean."""
        power, dispersion = self._parameters(eta)
        return dispersion * torch.exp(power * eta)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log density, up to terms free of ``eta``."""
        falling, rising = self._terms(eta, y)
        power, _ = self._parameters(eta)
        return falling / (power - 1) + rising / (2 - power)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss`."""
        falling, rising = self._terms(eta, y)
        return falling - rising

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`."""
        return self._derivative(eta, y, 2)

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        return self._derivative(eta, y, 3)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        return self._derivative(eta, y, 4)

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log of the series of Dunn and Smyth, and 0 for an amount of 0."""
        power, dispersion = self._parameters(y.double())
        return log_series(y.double(), power, dispersion).to(y.dtype)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of a positive amount, and the log probability of 0."""
        precise = eta.double()
        value = self.log_base_measure(y.double()) - self.loss(precise, y.double())
        return value.to(eta.dtype)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the parameters."""
        power, dispersion = self._parameters(eta.double())
        eta_, power, dispersion = torch.broadcast_tensors(eta.double(), power, dispersion)
        rate = torch.exp((2 - power) * eta_) / (dispersion * (2 - power))
        number = torch.poisson(rate.expand((*sample_shape, *rate.shape)))
        shape = number * (2 - power) / (power - 1)
        scale = dispersion * (power - 1) * torch.exp((power - 1) * eta_)
        amount = torch._standard_gamma(torch.where(number > 0, shape, 1.0)) * scale
        tiny = torch.finfo(eta.dtype).tiny
        return torch.where(number > 0, amount.clamp(min=tiny), 0.0).to(eta.dtype)

    def _parameters(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return as_like(self.power, like, "power"), as_like(self.dispersion, like, "dispersion")

    def _terms(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the score that falls with ``eta``, and the part that is taken off."""
        power, dispersion = self._parameters(eta)
        falling = y * torch.exp((1 - power) * eta) / dispersion
        return falling, torch.exp((2 - power) * eta) / dispersion

    def _derivative(self, eta: Tensor, y: Tensor, order: int) -> Tensor:
        falling, rising = self._terms(eta, y)
        power, _ = self._parameters(eta)
        sign = 1 if order % 2 == 0 else -1
        return sign * (power - 1) ** (order - 1) * falling + (2 - power) ** (order - 1) * rising


def _extremes(power: float | Tensor | str | None) -> tuple[float, float]:
    """The smallest and the largest power; any power is possible where it is to be learnt."""
    if isinstance(power, Tensor):
        return float(power.detach().min()), float(power.detach().max())
    if power is None or isinstance(power, str):
        return math.nextafter(1, 2), math.nextafter(2, 1)
    return power, power


NUM_TERMS = 96
"""Terms of the series that are added. Their logs are nearly a parabola in the index."""

REACH = 9.0
"""Terms are added within so many standard deviations of this parabola from the largest one."""


def log_series(y: Tensor, power: Tensor, dispersion: Tensor) -> Tensor:
    r"""The factor of the Tweedie density that is free of the mean, in logs.

    It is :math:`\log y^{-1} \sum_{j \ge 1} W_j` for positive ``y``, with

    .. math:: \log W_j = j \log z - \log j! - \log \Gamma(j a), \quad a = \frac{2 - p}{p - 1},
              \quad z = \frac{y^a (p - 1)^{-a}}{\phi^{1 + a} (2 - p)},

    and 0 for zeros. Where the sum has many terms of one size, each term that is added stands for
    its neighbours: the sum of a smooth function over a coarser grid is as accurate.

    Source: Dunn and Smyth (2005), equations 5 to 8.

    Args:
        y: amounts, in double precision.
        power: the power of the variance, broadcastable to ``y``.
        dispersion: the dispersion, broadcastable to ``y``.
    """
    is_zero = y == 0
    y = torch.where(is_zero, 1.0, y)
    y, power, dispersion = torch.broadcast_tensors(y, power, dispersion)
    a = (2 - power) / (power - 1)
    log_z = (
        a * (torch.log(y) - torch.log(power - 1))
        - (1 + a) * torch.log(dispersion)
        - torch.log(2 - power)
    )
    first, step = _grid(y.detach(), power.detach(), dispersion.detach(), a.detach())
    index = first.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(
        NUM_TERMS, dtype=y.dtype, device=y.device
    )
    terms = (
        index * log_z.unsqueeze(-1)
        - torch.lgamma(index + 1)
        - torch.lgamma(index * a.unsqueeze(-1))
    )
    value = torch.logsumexp(terms, -1) + torch.log(step) - torch.log(y)
    return torch.where(is_zero, 0.0, value)


def _grid(y: Tensor, power: Tensor, dispersion: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The first index of the terms to add, and the distance between them."""
    largest = (y ** (2 - power) / (dispersion * (2 - power))).clamp(min=1)
    # The second derivative of the log term is about -(1 + a) / j at the largest.
    width = REACH * torch.sqrt(largest / (1 + a))
    step = (2 * width / (NUM_TERMS - 1)).clamp(min=1).ceil()
    first = (largest - 0.5 * step * NUM_TERMS).floor().clamp(min=1)
    return first, step
