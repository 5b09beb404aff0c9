"""The family of Poisson counts that are not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.links.polynomial import polynomial

_POISSON = Poisson()

_SMALL_RATE = 1.0
"""Below this rate cumulants are summed as series, above they are closed forms."""

_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
    854513 / 138,
    -236364091 / 2730,
    8553103 / 6,
    -23749461029 / 870,
)
"""The Bernoulli numbers of even order from 2 on."""

_SERIES = [(2 * j + 2, b / math.factorial(2 * j + 2)) for j, b in enumerate(_BERNOULLI)]
r"""Powers and coefficients of :math:`\lambda / (e^\lambda - 1) - 1 + \lambda / 2`."""


@dataclass(frozen=True, eq=False)
class ZeroTruncatedPoisson(ExponentialFamily):
    r"""Counts 1, 2, 3, ... of a Poisson law without its zeros, by its log rate.

    .. math:: T(y) = y, \quad A(\eta) = \log(\exp(e^\eta) - 1), \quad h(y) = 1 / y!.

    It is the law of counts that are seen only where there is something to count, as the size of
    groups, or the length of a stay in days. The mean is :math:`\lambda / (1 - e^{-\lambda})` for
    the rate :math:`\lambda = e^\eta`.

    Source: Johnson, Kemp and Kotz (2005), *Univariate discrete distributions*, section 4.10.1.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import ZeroTruncatedPoisson
        >>> ZeroTruncatedPoisson().mean(torch.tensor([-10.0, 0.0, 3.0]))
        tensor([ 1.0000,  1.5820, 20.0855])
    """

    self_concordance: ClassVar[float] = 1.3
    bounded_variance: ClassVar[bool] = False

    @property
    def support(self) -> constraints.Constraint:
        """The positive integers."""
        return constraints.positive_integer

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log base measure :math:`-\log y!`."""
        return -torch.lgamma(y + 1)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        r"""The expectation :math:`-E[\log y!]`.

        The zeros of a Poisson law add nothing to it, so it is the one of the Poisson law over the
        probability of a positive count.
        """
        return _POISSON.expected_log_base_measure(eta) / -torch.expm1(-torch.exp(eta))

    def log_partition(self, eta: Tensor) -> Tensor:
        """The rate plus the log probability of a positive Poisson count."""
        rate = torch.exp(eta)
        # Below the smallest rate, the log probability is the log rate.
        positive = rate > torch.finfo(rate.dtype).tiny
        safe = torch.where(positive, rate, 1.0)
        return rate + torch.where(positive, torch.log(-torch.expm1(-safe)), eta)

    def mean(self, eta: Tensor) -> Tensor:
        """The mean of a count."""
        return self._cumulants(eta)[0]

    def variance(self, eta: Tensor) -> Tensor:
        """The variance of a count."""
        return self._cumulants(eta)[1]

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant of a count."""
        return self._cumulants(eta)[2]

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant of a count."""
        return self._cumulants(eta)[3]

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Both, with shared computations done once."""
        return self._cumulants(eta)[:2]

    def natural_param(self, mean: Tensor) -> Tensor:
        """The log rate of a mean of at least 1; by bisection unless the mean is the rate."""
        large = mean > _LARGE_RATE
        few = super().natural_param(torch.where(large, 1.5, mean))
        return torch.where(large, torch.log(mean), few)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``.

        The first event of a Poisson process on the unit interval, given that there is one, is drawn
        by the inverse of its distribution function. The others follow after it.
        """
        rate = torch.exp(eta.double()).expand((*sample_shape, *eta.shape))
        first = -torch.log1p(torch.rand_like(rate) * torch.expm1(-rate))
        others = _POISSON.sample(torch.log((rate - first).clamp(min=0)))
        return (1 + others).to(eta.dtype)

    def _cumulants(self, eta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""The first four derivatives of the log-partition, :math:`\lambda + q` and its slopes.

        Here :math:`q = \lambda / (e^\lambda - 1)`, with the slope :math:`q (1 - \lambda - q)` in
        :math:`\eta`.
        """
        rate = torch.exp(eta)
        small = rate < _SMALL_RATE
        few = _few_cumulants(torch.where(small, rate, _SMALL_RATE))
        many = _many_cumulants(torch.where(small, _SMALL_RATE, rate))
        found = (torch.where(small, a, b) for a, b in zip(few, many, strict=True))
        return next(found), next(found), next(found), next(found)


def _few_cumulants(rate: Tensor) -> list[Tensor]:
    square = rate.square()
    cumulants = []
    for order in range(1, 5):
        coefficients = [c * power ** (order - 1) for power, c in _SERIES]
        series = square * polynomial(coefficients, square)
        cumulants.append(series + 0.5 * rate + (1.0 if order == 1 else 0.0))
    return cumulants


_LARGE_RATE = 100.0
"""Above this rate the law is a Poisson law to rounding."""


def _many_cumulants(rate_or_more: Tensor) -> list[Tensor]:
    rate = rate_or_more.clamp(max=_LARGE_RATE)
    q = rate * torch.exp(-rate) / -torch.expm1(-rate)
    s = 1 - rate - q
    first = q * s
    s_first = -rate - first
    second = first * s + q * s_first
    s_second = -rate - second
    third = second * s + 2 * first * s_first + q * s_second
    return [rate_or_more + x for x in (q, first, second, third)]
