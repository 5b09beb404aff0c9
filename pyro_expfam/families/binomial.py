"""The binomial family of known total count."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.linked import Linkable
from pyro_expfam.families.positive import as_parameter
from pyro_expfam.families.reflection import sign_to_negative
from pyro_expfam.families.saddle_point import (
    MANY,
    coefficient_large_part,
    coefficient_remainder,
    half_deviance,
    is_close,
    log_binomial_coefficient,
)
from pyro_expfam.links import Link, Logit
from pyro_expfam.links.logistic import log_odds, sigmoid, softplus

_LogMass = Callable[[Tensor, Tensor, Tensor], Tensor]
_BERNOULLI = Bernoulli()
_CHUNK = 2**18


class CountInterval(constraints.integer_interval):
    """The integers from 0 to a total count, which is moved to the device of the values."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is an integer of the interval."""
        total = self.upper_bound
        if isinstance(total, Tensor):
            total = total.to(value.device)
        return (value % 1 == 0) & (value >= self.lower_bound) & (value <= total)

    def __repr__(self) -> str:
        return f"the integers from 0 to {self.upper_bound}"


@dataclass(frozen=True, eq=False, repr=False)
class Binomial(Linkable, ExponentialFamily):
    r"""Counts of successes out of a known total ``n``, by the log odds of one success.

    .. math:: T(y) = y, \quad A(\eta) = n \log(1 + e^\eta), \quad h(y) = \binom{n}{y}.

    The activation is ``n`` times the logistic sigmoid.

    Source: Nielsen and Garcia (2009); with ``n = 1``, Table 1 of Tsuchida and Ong.

    Args:
        total_count: the total, an integer or a tensor of integers that broadcasts against
            observations, for instance ``(d,)`` for one per feature.
        link: how the probability of one success follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Logit`.

    Raises:
        TypeError: ``total_count`` is not a number or a tensor.
        ValueError: ``total_count`` is not a positive integer.

    Example:
        >>> import torch
        >>> family = Binomial(total_count=16)
        >>> family
        Binomial(total_count=16)
        >>> family.mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([ 4.3031,  8.0000, 11.6969])
    """

    total_count: int | Tensor

    self_concordance: ClassVar[float] = 1.0

    def __post_init__(self, link: Link | None) -> None:
        del link
        wanted = "a positive integer or a tensor of such integers"
        total = as_parameter("total_count", self.total_count)
        object.__setattr__(self, "total_count", total)
        if isinstance(total, Tensor):
            valid = bool(((total >= 1) & (total % 1 == 0)).all())
            if total.dtype == torch.bool or not valid:
                raise ValueError(f"total_count is {total}, but should be {wanted}")
            return
        if isinstance(total, bool) or not isinstance(total, numbers.Real):
            raise TypeError(f"total_count is {total!r}, but should be {wanted}")
        if not isinstance(total, numbers.Integral) or total < 1:
            raise ValueError(f"total_count is {total!r}, but should be {wanted}")
        object.__setattr__(self, "total_count", int(total))

    @property
    def support(self) -> constraints.Constraint:
        """The integers from 0 to the total count."""
        return CountInterval(0, self.total_count)

    def canonical_form(self, y: Tensor) -> CanonicalForm:
        """Bits with the total counts as weights, whose observations are shares of successes."""
        total = self._total(y)
        return CanonicalForm(_BERNOULLI, y / total, torch.zeros_like(total), total)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log binomial coefficient :math:`\log \binom{n}{y}`."""
        precise = y.double()
        return log_binomial_coefficient(self._total(precise), precise).to(y.dtype)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        r"""The expected log binomial coefficient, computed in double precision.

        It is the sum over all counts that have mass in double precision: ``n + 1`` of them, or
        about :math:`9 \sqrt n + 60` for a large total ``n``, in chunks of bounded memory.
        """
        return self._expected_log_coefficient(eta.double()).to(eta.dtype)

    def log_partition(self, eta: Tensor) -> Tensor:
        r"""The log-partition :math:`n \log(1 + e^\eta)`."""
        return self._total(eta) * softplus(eta)

    def mean(self, eta: Tensor) -> Tensor:
        """The total count times the logistic sigmoid."""
        # The derivative of torch.sigmoid has a rounding error of the size of the total count.
        return self._total(eta) * sigmoid(eta)

    def variance(self, eta: Tensor) -> Tensor:
        """The variance, with relative accuracy in both tails."""
        return self._total(eta) * _BERNOULLI.variance(eta)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The total count times the third cumulant of a Bernoulli."""
        return self._total(eta) * _BERNOULLI.third_cumulant(eta)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The total count times the fourth cumulant of a Bernoulli."""
        return self._total(eta) * _BERNOULLI.fourth_cumulant(eta)

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Both, with relative accuracy: rounding of ``1 - p`` would grow with the total count."""
        mean = self._total(eta) * torch.sigmoid(eta)
        return mean, mean * torch.sigmoid(-eta)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The mean in ``eta`` and the variance in ``scratch``."""
        failure = torch.neg(eta, out=scratch).sigmoid_()
        mean = eta.sigmoid_().mul_(self._total(eta))
        return mean, failure.mul_(mean)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The log odds of a mean between 0 and the total count."""
        return log_odds(mean, self._total(mean))

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        """The total count times the convex conjugate of a Bernoulli at the share of successes."""
        total = self._total(mean)
        return total * _BERNOULLI.convex_conjugate(mean / total)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the total count."""
        total = self._total(eta)
        shape = (*sample_shape, *torch.broadcast_shapes(eta.shape, total.shape))
        # Draws the rarer outcome: a probability close to 1 has few digits left.
        rarer = torch.sigmoid(-eta.abs()).expand(shape).contiguous()
        count = torch.binomial(total.expand(shape).contiguous(), rarer)
        return torch.where(eta > 0, total - count, count)

    @property
    def own_link(self) -> Link:
        """The logit."""
        return Logit()

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The log odds of the link."""
        return link.log_odds(eta)

    def mean_for_link(self, y: Tensor) -> Tensor:
        """The share of successes."""
        return y / self._total(y)

    def residual(self, eta: Tensor, y: Tensor) -> Tensor:
        """The observation minus its mean, with relative accuracy in both tails."""
        return y * sigmoid(-eta) - (self._total(eta) - y) * sigmoid(eta)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability, computed in double precision without cancellation."""
        total = self._total(eta)
        shape = torch.broadcast_shapes(y.shape, eta.shape, total.shape)
        log_mass = _log_mass_of_many if self._largest_total() > MANY else _log_mass_of_few
        return _LogProb.apply(y.expand(shape), eta.expand(shape), total, log_mass)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy, a sum as in :meth:`expected_log_base_measure`."""
        precise = eta.double()
        of_trials = self._total(precise) * _BERNOULLI.entropy(precise)
        return (of_trials - self._expected_log_coefficient(precise)).to(eta.dtype)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The total count times the divergence of a Bernoulli."""
        return self._total(eta) * _BERNOULLI.kl_divergence(eta, other)

    def _total(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.total_count, dtype=like.dtype, device=like.device)

    def _largest_total(self) -> int:
        total = self.total_count
        return int(total.max()) if isinstance(total, Tensor) else total

    def _expected_log_coefficient(self, eta: Tensor) -> Tensor:
        total = self._total(eta)
        largest = self._largest_total()
        width = min(largest + 1, math.ceil(9 * math.sqrt(largest)) + 62)
        eta, total = torch.broadcast_tensors(sign_to_negative(eta) * eta, total)
        return _ExpectedDifference.apply(eta, total, width, 0)


def _log_mass_of_few(total: Tensor, y: Tensor, eta: Tensor) -> Tensor:
    """The log probability of a count, by equation 1."""
    rare, size = torch.where(eta > 0, total - y, y), eta.abs()
    log_base = torch.lgamma(total + 1) - torch.lgamma(rare + 1) - torch.lgamma(total - rare + 1)
    return log_base - _power(rare, size) - total * softplus(-size)


def _log_mass_of_many(total: Tensor, y: Tensor, eta: Tensor) -> Tensor:
    """The log probability of a count, by Loader's form near the mode."""
    return log_mass_of_outcomes(y, total - y, eta)


def log_mass_of_outcomes(successes: Tensor, failures: Tensor, eta: Tensor) -> Tensor:
    """The log probability of so many successes and failures, by Loader's form near the mode.

    Both may be any positive numbers or 0. Their sum would lose digits of the smaller one.
    """
    total, size = successes + failures, eta.abs()
    rare = torch.where(eta > 0, failures, successes)
    common = torch.where(eta > 0, successes, failures)
    rare_mean, common_mean = total * torch.sigmoid(-size), total * torch.sigmoid(size)
    saddle = -half_deviance(rare, rare_mean) - half_deviance(common, common_mean)
    few = torch.minimum(rare, common)
    large_part = coefficient_large_part(total, few)
    direct = large_part - _power(rare, size) - total * softplus(-size)
    near = is_close(rare, rare_mean) & is_close(common, common_mean)
    return coefficient_remainder(total, few) + torch.where(near, saddle, direct)


def _power(rare: Tensor, size: Tensor) -> Tensor:
    # At an infinite natural parameter an outcome has probability 0: it is certain not to be drawn.
    return torch.nan_to_num(rare * size, nan=0.0, posinf=math.inf, neginf=-math.inf)


class _LogProb(Function):
    """The log probability, computed in double precision; its derivative is the score."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, eta: Tensor, total: Tensor, log_mass: _LogMass) -> Tensor:
        return log_mass(total.double(), y.double(), eta.double()).to(eta.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        y, eta, total = ctx.saved_tensors
        to_y, to_eta = ctx.needs_input_grad[:2]
        slope = eta + torch.digamma(total - y + 1) - torch.digamma(y + 1) if to_y else None
        return (
            None if slope is None else gradient * slope,
            gradient * (y - total * torch.sigmoid(eta)) if to_eta else None,
            None,
            None,
        )


class _ExpectedDifference(Function):
    r"""The expectation of a forward difference of the log binomial coefficient in the count.

    Of order ``m`` it is taken over ``n - m`` trials, because in the log odds the expectation
    :math:`E_n[f(y)]` has the derivative :math:`n p (1 - p) E_{n-1}[f(y + 1) - f(y)]`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(eta: Tensor, total: Tensor, width: int, order: int) -> Tensor:
        trials = (total - order).clamp(min=0)
        mean = trials * torch.sigmoid(eta)
        # Less than exp(-81 / 2) of the mass lies below.
        first = (mean - 9 * (mean * torch.sigmoid(-eta)).sqrt()).floor().clamp(min=0)
        weight = torch.zeros_like(eta)
        weighted = torch.zeros_like(eta)
        chunk = max(1, min(width, _CHUNK // max(1, eta.numel())))
        for start in range(0, width, chunk):
            steps = torch.arange(start, min(start + chunk, width), dtype=eta.dtype)
            steps = steps.to(eta.device).reshape(-1, *[1] * eta.dim())
            inside = first + steps <= trials
            y = torch.minimum(first + steps, trials)
            mass = torch.where(inside, _log_mass_of_trials(trials, y, eta).exp(), 0.0)
            weight = weight + mass.sum(0)
            weighted = weighted + (mass * _difference(total, y, order)).sum(0)
        # Dividing by the sum removes the rounding that all masses share.
        return torch.where(total >= order, weighted / weight, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        eta, total, ctx.width, ctx.order = inputs
        ctx.save_for_backward(eta, total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        eta, total = ctx.saved_tensors
        next_order = _ExpectedDifference.apply(eta, total, ctx.width, ctx.order + 1)
        trials = (total - ctx.order).clamp(min=0)
        return gradient * trials * _BERNOULLI.variance(eta) * next_order, None, None, None


def _log_mass_of_trials(trials: Tensor, y: Tensor, eta: Tensor) -> Tensor:
    # With no trials there is one outcome.
    return torch.where(trials > 0, _log_mass_of_many(trials.clamp(min=1), y, eta), 0.0)


def _difference(total: Tensor, y: Tensor, order: int) -> Tensor:
    """The forward difference, of an order, of the log of ``total`` choose ``y``, in ``y``."""
    if order == 0:
        return log_binomial_coefficient(total, y)
    if order == 1:
        return torch.log((total - y) / (y + 1))
    if order == 2:
        return torch.log1p(-1 / (total - y)) - torch.log1p(1 / (y + 1))
    return _difference(total, y + 1, order - 1) - _difference(total, y, order - 1)
