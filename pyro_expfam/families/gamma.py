"""The gamma family of known or trained shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.log_mean import LogMeanFamily
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.positive import as_like, known_or_learnt, log_minus_digamma
from pyro_expfam.families.saddle_point import half_deviance, is_close, log_factorial_remainder
from pyro_expfam.links import Link

_POISSON = Poisson()


@dataclass(frozen=True, eq=False, repr=False)
class Gamma(LogMeanFamily):
    r"""Positive observations with a constant coefficient of variation, by their log mean.

    .. math:: E[y] = e^\eta, \quad \operatorname{Var}[y] = e^{2 \eta} / k, \quad
              \ell(\eta; y) = k (\eta + y e^{-\eta}).

    The shape ``k`` is one over the squared coefficient of variation; 1 gives the exponential law.
    The loss is convex. It is the loss of a Poisson with log rate :math:`\log y - \eta` that has
    weight ``k`` and the count 1, up to terms free of :math:`\eta`.

    Zeros are not possible. Mask them, or replace them by half of the smallest positive value that
    can be measured, if they are small values rounded down.

    Source: McCullagh and Nelder (1989), chapter 8.

    Args:
        shape: the shape ``k``, a positive number, or a tensor, an array, a series or a list of such
            numbers that broadcasts against observations, for instance ``(d,)`` for one per column.
            Gradients flow to a tensor. Without it a block learns one per column, and with
            ``"shared"`` one for all columns.
        link: how the mean follows from the linear predictor. The default is
            :class:`~pyro_expfam.links.Log`.

    Raises:
        TypeError: ``shape`` does not hold real numbers.
        ValueError: ``shape`` is not positive and finite.

    Example:
        >>> import torch
        >>> family = Gamma(shape=4.0)
        >>> eta = torch.tensor([0.0, 1.0])
        >>> family.expected_y(eta), family.variance_of_y(eta)
        (tensor([1.0000, 2.7183]), tensor([0.2500, 1.8473]))
    """

    shape: float | Tensor | str | None = None

    bounded_variance: ClassVar[bool] = False

    def __post_init__(self, link: Link | None) -> None:
        del link
        object.__setattr__(self, "shape", known_or_learnt("shape", self.shape))

    @property
    def support(self) -> constraints.Constraint:
        """The positive numbers."""
        return constraints.positive

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The squared mean over the shape."""
        return torch.exp(2 * eta) / as_like(self.shape, eta, "shape")

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log density, up to terms free of ``eta``."""
        return as_like(self.shape, eta, "shape") * (eta + y * torch.exp(-eta))

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss` in ``eta``."""
        return as_like(self.shape, eta, "shape") * (y * torch.exp(-eta) - 1)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`."""
        return as_like(self.shape, eta, "shape") * (y * torch.exp(-eta))

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        return -self.curvature(eta, y)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        return self.curvature(eta, y)

    def canonical_form(self, y: Tensor) -> CanonicalForm:
        """Counts of 1 of log rate ``log(y) - eta``, whose weights are the shape."""
        shape, log_y = as_like(self.shape, y, "shape"), torch.log(y)
        return CanonicalForm(_POISSON, torch.ones_like(y), log_y, shape, -1.0, shape * log_y)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The terms :math:`k \log k - \log \Gamma(k) + (k - 1) \log y`."""
        shape = as_like(self.shape, y.double(), "shape")
        return (log_normaliser(shape) + shape + (shape - 1) * torch.log(y.double())).to(y)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density, computed in double precision without cancellation."""
        return _LogProb.apply(*torch.broadcast_tensors(y, eta, as_like(self.shape, eta, "shape")))

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats."""
        shape = as_like(self.shape, eta.double(), "shape")
        of_shape = -log_normaliser(shape) + (shape - 1) * log_minus_digamma(shape)
        return (eta + of_shape).to(eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the law at ``eta`` from the law at ``other``, of the same shape."""
        return as_like(self.shape, eta, "shape") * _POISSON.kl_divergence(
            torch.zeros_like(eta), eta - other
        )

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`-k - k \log \mu`, infinite for means that are not positive.

        It belongs to the natural parameter :math:`-k / \mu` of a known shape.
        """
        value = -as_like(self.shape, mean, "shape") * (1 + torch.log(mean))
        return torch.where(mean > 0, value, torch.inf)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the shape parameter."""
        shape = as_like(self.shape, eta, "shape")
        draws = (*sample_shape, *torch.broadcast_shapes(eta.shape, shape.shape))
        factor = torch._standard_gamma(shape.double().expand(draws).contiguous()) / shape
        value = torch.exp(eta.double()) * factor
        # A draw that rounds to zero is outside of the support.
        return value.to(eta.dtype).clamp(min=torch.finfo(eta.dtype).tiny)


def log_normaliser(shape: Tensor) -> Tensor:
    r"""The function :math:`k \log k - k - \log \Gamma(k)` of shapes in double precision."""
    return _LogNormaliser.apply(shape)


class _LogNormaliser(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(shape: Tensor) -> Tensor:
        return torch.log(shape) - log_factorial_remainder(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (shape,) = ctx.saved_tensors
        return gradient * log_minus_digamma(shape)


class _LogProb(Function):
    r"""The log density :math:`\log k - R(k) - \log y - k (v - 1 - \log v)` with ``v = y / mean``.

    ``R`` is the remainder of the log factorial. The last factor is half a Poisson deviance, which
    does not cancel near the mean.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, eta: Tensor, shape: Tensor) -> Tensor:
        precise, k = y.double(), shape.double()
        log_ratio = torch.log(precise) - eta.double()
        ratio, one = torch.exp(log_ratio), torch.ones_like(log_ratio)
        near = is_close(one, ratio)
        deviance = torch.where(
            near, half_deviance(one, torch.where(near, ratio, one)), ratio - 1 - log_ratio
        )
        value = log_normaliser(k) - torch.log(precise) - k * deviance
        return value.to(eta.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, eta, shape = ctx.saved_tensors
        to_y, to_eta, to_shape = ctx.needs_input_grad
        excess = y * torch.exp(-eta) - 1
        log_ratio = torch.log(y) - eta
        return (
            -gradient * (1 + shape * excess) / y if to_y else None,
            gradient * shape * excess if to_eta else None,
            gradient * (log_minus_digamma(shape) + log_ratio - excess) if to_shape else None,
        )
