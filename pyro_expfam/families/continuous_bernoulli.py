"""The continuous Bernoulli family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.reflection import sign_to_negative
from pyro_expfam.links.polynomial import polynomial


@dataclass(frozen=True, eq=False)
class ContinuousBernoulli(ExponentialFamily):
    r"""Observations between 0 and 1 with an exponential density.

    .. math:: T(y) = y, \quad A(\eta) = \log \frac{e^\eta - 1}{\eta}, \quad h(y) = 1
              \text{ on } [0, 1].

    The activation is :math:`1 / (1 - e^{-\eta}) - 1 / \eta`, one half at zero. Near zero the
    derivatives of ``A`` are summed as a series with Bernoulli numbers. Farther out they are
    polynomials in :math:`1 / \eta` and :math:`1 / (e^{|\eta|} - 1)`. Autograd through each of them
    gives the next, to every order.

    Source: Table 1 of Tsuchida and Ong; Loaiza-Ganem and Cunningham (2019), equations 7 and 8.

    Example:
        >>> import torch
        >>> ContinuousBernoulli().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.4180, 0.5000, 0.5820])
    """

    # The largest ratio is 0.27366946, at eta = 4.9875; it tends to 0 on both sides.
    self_concordance: ClassVar[float] = 0.27367

    weak_intercept_scale: ClassVar[float] = 1_000.0
    r"""The scale is wide, since a mean close to its edge has a large natural parameter: the
    distance to the edge is :math:`1 / |\eta|`. Natural parameters of nearly constant columns, such
    as pixels at the border of images, are in the hundreds. Means from 0.0005 to 0.9995 lie within
    two standard deviations.
    """

    @property
    def support(self) -> constraints.Constraint:
        """The closed unit interval."""
        return constraints.unit_interval

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log base measure: 0."""
        return torch.zeros_like(y)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        """The expected log base measure: 0."""
        return torch.zeros_like(eta)

    def log_partition(self, eta: Tensor) -> Tensor:
        r"""The log-partition :math:`\log((e^\eta - 1) / \eta)`, 0 at 0."""
        return _Cumulant.apply(eta, 0)

    def mean(self, eta: Tensor) -> Tensor:
        r"""The mean :math:`1 / (1 - e^{-\eta}) - 1 / \eta`, one half at 0."""
        return _Cumulant.apply(eta, 1)

    def variance(self, eta: Tensor) -> Tensor:
        r"""The variance :math:`1 / \eta^2 - 1 / (4 \sinh^2(\eta / 2))`, 1/12 at 0."""
        return _Cumulant.apply(eta, 2)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant, 0 at 0."""
        return _Cumulant.apply(eta, 3)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant, -1/120 at 0."""
        return _Cumulant.apply(eta, 4)

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance from one exponential; the mean is exact to rounding of 1."""
        return _MeanAndVariance.apply(eta)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The natural parameter of a mean, by Newton's method on the half line of its sign.

        It is NaN for a mean outside of [0, 1]. The derivative is one over the variance.
        """
        return _NaturalParam.apply(mean)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, by the inverse distribution function."""
        uniform = torch.rand((*sample_shape, *eta.shape), dtype=eta.dtype, device=eta.device)
        size = eta.abs()
        # Distances from the likelier end need no exponential of a positive number.
        scale = torch.where(size > 0, size, 1.0)
        distance = -torch.log1p(uniform * torch.expm1(-scale)) / scale
        distance = torch.where(size > 0, distance, uniform).clamp(0, 1)
        return torch.where(eta > 0, 1 - distance, distance)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density, from the distance to the likelier end."""
        negative = sign_to_negative(eta) * eta
        distance = torch.where(eta > 0, 1 - y, y)
        return distance * negative - self.log_partition(negative)

    def entropy(self, eta: Tensor) -> Tensor:
        """The differential entropy in nats: 0 at ``eta = 0``, negative elsewhere."""
        return super().entropy(sign_to_negative(eta) * eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence to ``other`` in nats, without cancellation between large values."""
        sign = sign_to_negative(eta)
        return super().kl_divergence(sign * eta, sign * other)


class _Cumulant(Function):
    """The derivative of ``A`` of a given order; its own derivative is the next order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(eta: Tensor, order: int) -> Tensor:
        near = _near_zero(eta, order)
        return torch.where(eta.abs() < _radius(order), near, _from_tails(eta, order))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        eta, ctx.order = inputs
        ctx.save_for_backward(eta)
        ctx.save_for_forward(eta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (eta,) = ctx.saved_tensors
        return gradient * _Cumulant.apply(eta, ctx.order + 1), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        (eta,) = ctx.saved_tensors
        return tangent * _Cumulant.apply(eta, ctx.order + 1)


class _MeanAndVariance(Function):
    """The first two cumulants, from one exponential."""

    generate_vmap_rule = True

    @staticmethod
    def forward(eta: Tensor) -> tuple[Tensor, Tensor]:
        square = eta.square()
        even = polynomial(series_coefficients(1, torch.finfo(eta.dtype).eps), square)
        # The mean solves a Riccati equation, so that its series gives the variance as well.
        near_mean = 0.5 + eta * even
        near_variance = 0.25 - even * (2 + square * even)
        reciprocal, exponential = _tail_terms(eta)
        tail_mean = 0.5 + torch.copysign(0.5 - (reciprocal - exponential), eta)
        tail_variance = reciprocal.square() - exponential * (1 + exponential)
        near = square < _radius(1) ** 2
        return torch.where(near, near_mean, tail_mean), torch.where(
            near, near_variance, tail_variance
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (eta,) = ctx.saved_tensors
        return gradients[0] * _Cumulant.apply(eta, 2) + gradients[1] * _Cumulant.apply(eta, 3)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        (eta,) = ctx.saved_tensors
        return tangent * _Cumulant.apply(eta, 2), tangent * _Cumulant.apply(eta, 3)


class _NaturalParam(Function):
    """The inverse of the mean, with the exact derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor) -> Tensor:
        balance = 2 * (mean - 0.5)
        tail = torch.minimum(mean, 1 - mean)
        size = _inverse_size(balance.abs(), tail)
        return torch.where(balance < 0, -size, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (eta,) = ctx.saved_tensors
        return gradient / _Cumulant.apply(eta, 2)


def _radius(order: int) -> float:
    """The radius up to which the series is used; the tails cancel more at higher orders."""
    return 1.0 if order <= 2 else 3.0


def _near_zero(eta: Tensor, order: int) -> Tensor:
    square = eta.square()
    even = polynomial(series_coefficients(order, torch.finfo(eta.dtype).eps), square)
    if order == 0:
        return eta * (0.5 + eta * even)
    if order == 1:
        return 0.5 + eta * even
    return eta * even if order % 2 else even


@lru_cache
def series_coefficients(order: int, precision: float) -> tuple[float, ...]:
    r"""The coefficients in :math:`\eta^2` of a derivative of :math:`A(\eta) - \eta / 2`.

    The series is :math:`\sum_k B_{2k} \eta^{2k} / (2k \, (2k)!)`, differentiated term by term. Its
    leading power is divided out, which is :math:`\eta^2` for ``A`` itself. The series ends where
    terms drop below ``precision``.
    """
    first = max(1, (order + 1) // 2)
    coefficients: list[float] = []
    for k in range(first, 200):
        power = 2 * k - order
        value = float(bernoulli_number(2 * k) / (2 * k * math.factorial(power)))
        coefficients.append(value)
        size = abs(value) * _radius(order) ** (2 * (k - first))
        if size < 0.05 * precision * abs(coefficients[0]):
            break
    return tuple(coefficients)


@lru_cache
def bernoulli_number(n: int) -> Fraction:
    """A Bernoulli number."""
    if n == 0:
        return Fraction(1)
    earlier = (math.comb(n + 1, k) * bernoulli_number(k) for k in range(n))
    return -sum(earlier, Fraction(0)) / (n + 1)


def _from_tails(eta: Tensor, order: int) -> Tensor:
    if order == 1:
        return -torch.expm1(-eta).reciprocal() - eta.reciprocal()
    reciprocal, exponential = _tail_terms(eta)
    if order == 0:
        # (1 - exp(-|eta|)) / |eta| does not overflow.
        size = eta.abs()
        return eta.clamp(min=0) + torch.log(-torch.expm1(-size) * reciprocal)
    negative = _tail_cumulant(order, reciprocal, exponential)
    return torch.where(eta > 0, -negative, negative) if order % 2 else negative


def _tail_terms(eta: Tensor) -> tuple[Tensor, Tensor]:
    size = eta.abs()
    return size.reciprocal(), torch.expm1(size).reciprocal()


def _tail_cumulant(order: int, reciprocal: Tensor, exponential: Tensor) -> Tensor:
    r"""The cumulant at :math:`-u < 0` from :math:`1 / u` and :math:`w = 1 / (e^u - 1)`.

    It is :math:`(n-1)! \, u^{-n} - P_n(w)`, where :math:`P_1 = w` and
    :math:`P_{n+1} = (w + w^2) P_n'`, since :math:`dw / d(-u) = w + w^2`.
    """
    power = math.factorial(order - 1) * reciprocal**order
    return power - polynomial(_exponential_coefficients(order), exponential)


@lru_cache
def _exponential_coefficients(order: int) -> tuple[float, ...]:
    coefficients = [0, 1]
    for _ in range(order - 1):
        derived = [k * coefficient for k, coefficient in enumerate(coefficients)] + [0]
        coefficients = [derived[k] + (derived[k - 1] if k else 0) for k in range(len(derived))]
    return tuple(float(coefficient) for coefficient in coefficients)


def _inverse_size(balance: Tensor, tail: Tensor) -> Tensor:
    r"""The absolute natural parameter of a mean with distance ``tail`` from 0 or 1.

    ``balance`` is ``1 - 2 tail``. Both are given, since each is accurate where the other is not.
    Newton's method starts from the inverse Langevin function of Jedynak (2015), which is accurate
    to 1.5 per cent.
    """
    far = tail < 1 / 64
    tail_near = torch.where(far, 1 / 64, tail)
    balance_near = torch.where(far, 1 - 2 / 64, balance)
    size = balance_near * (3 - 2.6 * balance_near + 0.7 * balance_near.square())
    size = size / (tail_near * (1 + 0.1 * balance_near))
    for _ in range(4):
        near = size < _radius(2)
        slope = polynomial(series_coefficients(1, torch.finfo(size.dtype).eps), size.square())
        reciprocal, exponential = _tail_terms(size)
        tail_residual = tail_near - _tail_cumulant(1, reciprocal, exponential)
        residual = torch.where(near, size * slope - 0.5 * balance_near, tail_residual)
        variance = _Cumulant.forward(size, 2)
        size = size - residual / variance
    # Beyond 64 the exponential is below rounding, and the parameter is the reciprocal of the tail.
    size = torch.where(far, tail.reciprocal(), size)
    return torch.where(tail >= 0, size, math.nan)
