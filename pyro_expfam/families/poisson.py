"""The Poisson family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.linked import Linkable
from pyro_expfam.families.saddle_point import (
    MANY,
    MANY_IN_SINGLE,
    half_deviance,
    is_close,
    log_factorial,
    log_factorial_remainder,
)
from pyro_expfam.links import Link, Log, Softplus
from pyro_expfam.links.polynomial import polynomial

_LARGEST_EXACT_RATE = 1e8
_LARGE_RATE = 40.0
_ENTROPY_SERIES = (
    -1 / 12,
    -1 / 24,
    -19 / 360,
    -9 / 80,
    -863 / 2520,
    -1375 / 1008,
    -33953 / 5040,
    -57281 / 1440,
    -3250433 / 11880,
    -378351 / 176,
    -13695779093 / 720720,
    -24466579093 / 131040,
)


@dataclass(frozen=True, eq=False)
class Poisson(Linkable, ExponentialFamily):
    r"""Counts 0, 1, 2, ... by their log rate.

    .. math:: T(y) = y, \quad A(\eta) = e^\eta, \quad h(y) = 1 / y!.

    The activation is the exponential, which is also every cumulant.

    Args:
        link: how the rate follows from the linear predictor, as
            :class:`~pyro_expfam.links.Softplus`. The default is :class:`~pyro_expfam.links.Log`.

    Source: Table 1 of Tsuchida and Ong.

    Example:
        >>> import torch
        >>> Poisson().mean(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 2.7183])
    """

    self_concordance: ClassVar[float] = 1.0
    bounded_variance: ClassVar[bool] = False

    @property
    def support(self) -> constraints.Constraint:
        """The non-negative integers."""
        return constraints.nonnegative_integer

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log base measure :math:`-\log y!`."""
        return -torch.lgamma(y + 1)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        r"""The expectation :math:`-E[\log y!]`, computed in double precision.

        Up to rate 40 it is the sum over counts. Above, it follows from the asymptotic series of the
        entropy by Evans and Boersma (1988), continued.
        """
        precise = eta.double()
        small = precise < math.log(_LARGE_RATE)
        few = _ExpectedDifference.apply(torch.where(small, precise, 0.0), 0)
        large = torch.where(small, math.log(_LARGE_RATE), precise)
        many = (large - 1) * torch.exp(large) + _large_rate_entropy(large)
        return -torch.where(small, few, many).to(eta.dtype)

    def log_partition(self, eta: Tensor) -> Tensor:
        """The rate."""
        return torch.exp(eta)

    def mean(self, eta: Tensor) -> Tensor:
        """The rate."""
        return torch.exp(eta)

    def variance(self, eta: Tensor) -> Tensor:
        """The rate."""
        return torch.exp(eta)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The rate."""
        return torch.exp(eta)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The rate."""
        return torch.exp(eta)

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """The same tensor twice."""
        rate = torch.exp(eta)
        return rate, rate

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """Both in ``eta``."""
        del scratch
        rate = eta.exp_()
        return rate, rate

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All in ``eta``."""
        del scratch
        rate = eta.exp_()
        return rate, rate, rate

    def natural_param(self, mean: Tensor) -> Tensor:
        """The logarithm of a mean, at least 0."""
        return torch.log(mean)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\mu \log \mu - \mu`, 0 at 0."""
        return torch.where(mean < 0, torch.inf, torch.xlogy(mean, mean) - mean)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``.

        Above a rate of 1e8, where generators overflow, they are rounded normal draws with the
        skewness of the Poisson (Cornish and Fisher), within 1e-8 in distribution.
        """
        rate = torch.exp(eta).expand((*sample_shape, *eta.shape))
        exact = torch.poisson(rate.clamp(max=_LARGEST_EXACT_RATE))
        normal = torch.randn_like(rate)
        approximate = rate * (1 + normal * rate.rsqrt()) + (normal.square() - 1) / 6
        return torch.where(rate > _LARGEST_EXACT_RATE, approximate.round(), exact)

    @property
    def own_link(self) -> Link:
        """The logarithm."""
        return Log()

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The log of the mean of the link."""
        return link.log_mean(eta)

    def self_concordance_under(self, link: Link) -> float | None:
        r"""1 for the softplus.

        The loss is :math:`f - y \log f` with the softplus ``f``. The ratio of the third to the
        second derivative is at most 1 for ``f``, and for :math:`-\log f`.
        """
        return 1.0 if isinstance(link, Softplus) else None

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability, computed in double precision without cancellation.

        Above a rate of 1e12 its absolute error is ``y - rate`` roundings of the rate.
        """
        return _LogProb.apply(*torch.broadcast_tensors(y, eta))

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats, as in :meth:`expected_log_base_measure`."""
        precise = eta.double()
        small = precise < math.log(_LARGE_RATE)
        few = torch.where(small, precise, 0.0)
        summed = (1 - few) * torch.exp(few) + _ExpectedDifference.apply(few, 0)
        many = _large_rate_entropy(torch.where(small, math.log(_LARGE_RATE), precise))
        return torch.where(small, summed, many).to(eta.dtype)


def _large_rate_entropy(eta: Tensor) -> Tensor:
    inverse = torch.exp(-eta)
    return 0.5 * (math.log(2 * math.pi) + 1 + eta) + inverse * polynomial(_ENTROPY_SERIES, inverse)


def _log_mass(y: Tensor, eta: Tensor, many: int) -> Tensor:
    """The log probability of a count, by Loader's form near the mode of more than ``many``."""
    rate = torch.exp(eta)
    # A count of 0 at a rate of 0, whose natural parameter is minus infinity, is certain.
    power = torch.nan_to_num(y * eta, nan=0.0, posinf=math.inf, neginf=-math.inf)
    value = power - rate - log_factorial(y)
    large = y > many
    if bool(large.any()):
        near = large & is_close(y, rate)
        y, rate = y[near], rate[near]
        value[near] = -log_factorial_remainder(y) - half_deviance(y, rate)
    return value


class _LogProb(Function):
    """The log probability, computed in double precision; its derivative is the score."""

    @staticmethod
    def forward(y: Tensor, eta: Tensor) -> Tensor:
        many = MANY if eta.dtype == torch.float64 else MANY_IN_SINGLE
        return _log_mass(y.double(), eta.double(), many).to(eta.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, y: Tensor, eta: Tensor) -> tuple[Tensor, int]:
        dims = zip((y, eta), in_dims, strict=True)
        y, eta = (x if dim is None else x.movedim(dim, 0) for x, dim in dims)
        return _LogProb.apply(*torch.broadcast_tensors(y, eta)), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, eta = ctx.saved_tensors
        to_y, to_eta = ctx.needs_input_grad
        return (
            gradient * (eta - torch.digamma(y + 1)) if to_y else None,
            gradient * (y - torch.exp(eta)) if to_eta else None,
        )


class _ExpectedDifference(Function):
    r"""The expectation of a forward difference of :math:`\log y!`, for rates up to 40.

    In the log rate, :math:`E[f(y)]` has the derivative :math:`\lambda E[f(y + 1) - f(y)]`: the
    expectation of the difference of the next order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(eta: Tensor, order: int) -> Tensor:
        rate = torch.exp(eta)
        return torch.exp(-rate) * polynomial(_difference_coefficients(order), rate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        eta, ctx.order = inputs
        ctx.save_for_backward(eta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (eta,) = ctx.saved_tensors
        return gradient * torch.exp(eta) * _ExpectedDifference.apply(eta, ctx.order + 1), None


@lru_cache
def _difference_coefficients(order: int) -> tuple[float, ...]:
    """The differences of ``log k!`` of an order, each divided by ``k!``."""
    num_counts = 141  # The mass above 140 at rate 40 is below 1e-32.
    if order == 0:
        values = [math.lgamma(k + 1) for k in range(num_counts)]
    else:
        values = [math.log(k + 1) for k in range(num_counts + order - 1)]
        for _ in range(order - 1):
            values = [after - before for before, after in pairwise(values)]
    return tuple(value / math.factorial(k) for k, value in enumerate(values))
