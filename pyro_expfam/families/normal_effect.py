r"""Poisson probabilities with a normal effect in the log rate, and their derivatives.

A count has the log rate :math:`x = \eta + s e` with a standard normal effect ``e``. The effect is
integrated out by the trapezoidal rule around the mode of its density given the count. For a smooth
density that dies away at both ends the error of this rule falls exponentially in the number of
nodes (Trefethen and Weideman, 2014, *The exponentially convergent trapezoidal rule*). The density
here falls doubly exponentially to the right, where the nodes of Gauss and Hermite converge slowly.

Derivatives in :math:`\eta` are cumulants of the rate :math:`r = e^x` and of ``x`` given the count.
Both forms are exact, and each is taken where it does not cancel:

.. math:: \ell^{(k)} = \sum_{m=1}^k S(k, m) (-1)^{m+1} \kappa_m(r), \qquad
          \ell^{(k)} = s^{2 - 2 k} \kappa(r, x, \dots, x),

with the Stirling numbers ``S`` of the second kind, and ``k - 1`` times ``x``. Derivatives in the
scale follow from the heat equation :math:`\partial_s p = s \, \partial_\eta^2 p`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyro_expfam.families.poisson import Poisson

_POISSON = Poisson()

_DEPTH = 42.0
"""Nodes lie where the log density is at most so far below its mode."""

_STEP = 0.22
"""The largest distance of nodes: the log density is analytic within a distance of pi / 2."""

_FEWEST_NODES = 48
"""The number of nodes for an effect that is nearly normal."""

_MOST_NODES = 4096
"""The number of nodes for scales beyond 100, where accuracy is lost."""

_ENTRIES_AT_ONCE = 1 << 17
"""Values at nodes that are held at once."""

_HALVINGS = 8
"""Newton steps to the mode, each of which doubles the digits."""

_LOG_ROOT = 0.5 * math.log(2 * math.pi)


def loss_derivatives(
    eta: Tensor, y: Tensor, scale: Tensor, orders: tuple[int, ...]
) -> tuple[Tensor, ...]:
    r"""Minus the log probability up to :math:`\log y!`, and its derivatives in ``eta``.

    Each is differentiable in all three arguments, to every order.

    Args:
        eta: linear predictors.
        y: counts, which broadcast with ``eta``.
        scale: standard deviations of the effect, which broadcast with both.
        orders: the derivatives wanted; 0 is the loss itself.
    """
    found: tuple[Tensor, ...] = _Loss.apply(*torch.broadcast_tensors(eta, y, scale), orders)
    return found


def log_prob(eta: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The log probability, without the cancellation of the loss and the log factorial."""
    value: Tensor = _LogProb.apply(*torch.broadcast_tensors(eta, y, scale))
    return value


class _Loss(Function):
    @staticmethod
    def forward(
        eta: Tensor, y: Tensor, scale: Tensor, orders: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        return tuple(x.to(eta.dtype) for x in _in_parts(eta, y, scale, orders))

    @staticmethod
    def vmap(info: Any, in_dims: Any, eta: Any, y: Any, scale: Any, orders: Any) -> tuple[Any, Any]:
        batched = _batch_first(in_dims, eta, y, scale)
        return _Loss.apply(*batched, orders), (0,) * len(orders)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.orders = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        eta, y, scale = ctx.saved_tensors
        slopes = [_slopes(eta, y, scale, order, ctx.needs_input_grad) for order in ctx.orders]
        found: list[Tensor | None] = []
        for of_argument in zip(*slopes, strict=True):
            terms = [g * x for g, x in zip(gradients, of_argument, strict=True) if x is not None]
            found.append(sum(terms[1:], terms[0]) if terms else None)
        return (*found, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        eta, y, scale = ctx.saved_tensors
        needed = tuple(tangent is not None for tangent in tangents[:3])
        found = []
        for order in ctx.orders:
            slopes = _slopes(eta, y, scale, order, needed)
            terms = [t * x for t, x in zip(tangents, slopes, strict=False) if x is not None]
            found.append(sum(terms[1:], terms[0]))
        return tuple(found)


class _LogProb(Function):
    @staticmethod
    def forward(eta: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return _in_parts(eta, y, scale, (-1,))[0].to(eta.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, eta: Any, y: Any, scale: Any) -> tuple[Any, Any]:
        return _LogProb.apply(*_batch_first(in_dims, eta, y, scale)), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        eta, y, scale = ctx.saved_tensors
        slopes = _slopes_of_log_prob(eta, y, scale, ctx.needs_input_grad)
        return tuple(None if x is None else gradient * x for x in slopes)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        needed = tuple(tangent is not None for tangent in tangents)
        eta, y, scale = ctx.saved_tensors
        slopes = _slopes_of_log_prob(eta, y, scale, needed)
        terms = [t * x for t, x in zip(tangents, slopes, strict=True) if x is not None]
        return sum(terms[1:], terms[0])


def _batch_first(in_dims: Any, *tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape with the dimension of a map first, and of size 1 where they have none.

    They are broadcast, as the functions here want them.
    """
    places = zip(tensors, in_dims, strict=False)
    first = [x.unsqueeze(0) if dim is None else x.movedim(dim, 0) for x, dim in places]
    return list(torch.broadcast_tensors(*first))


Needed = tuple[bool, ...]


def _slopes(
    eta: Tensor, y: Tensor, scale: Tensor, order: int, needed: Needed
) -> list[Tensor | None]:
    """The derivatives of the derivative of an order in ``eta``, ``y`` and ``scale``.

    In ``y`` the loss has the derivative ``-E[x]``, and ``E[x]`` is ``eta`` minus the squared scale
    times the first derivative.
    """
    highest = order + 2 if needed[2] else order + 1
    d = dict(enumerate(loss_derivatives(eta, y, scale, tuple(range(1, highest + 1))), 1))
    slopes: list[Tensor | None] = [d[order + 1] if needed[0] else None, None, None]
    if needed[1]:
        own = {0: -eta, 1: -torch.ones_like(eta)}.get(order, torch.zeros_like(eta))
        slopes[1] = own + scale.square() * d[order + 1]
    if needed[2]:
        # The derivative of an order of the second derivative minus the square of the first.
        products = [math.comb(order, k) * d[k + 1] * d[order - k + 1] for k in range(order + 1)]
        slopes[2] = scale * (d[order + 2] - sum(products[1:], products[0]))
    return slopes


def _slopes_of_log_prob(
    eta: Tensor, y: Tensor, scale: Tensor, needed: Needed
) -> list[Tensor | None]:
    of_eta, of_y, of_scale = _slopes(eta, y, scale, 0, needed)
    if of_y is not None:
        of_y = of_y + torch.digamma(y + 1)
    return [None if x is None else -x for x in (of_eta, of_y, of_scale)]


def _in_parts(eta: Tensor, y: Tensor, scale: Tensor, orders: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The derivatives in double precision, computed for some entries at a time.

    The order -1 stands for the log probability.
    """
    shape = eta.shape
    arguments = [x.double().reshape(-1) for x in (eta, y, scale)]
    size = max(1, _ENTRIES_AT_ONCE // _FEWEST_NODES)
    parts = zip(*(x.split(size) for x in arguments), strict=True)
    found = [_of_part(eta, y, scale, orders) for eta, y, scale in parts]
    return tuple(torch.cat(x).reshape(shape) for x in zip(*found, strict=True))


def _of_part(eta: Tensor, y: Tensor, scale: Tensor, orders: tuple[int, ...]) -> tuple[Tensor, ...]:
    mode = _mode(eta, y, scale)
    nodes = _nodes(mode, scale)
    functions = {-1: _log_prob_of_part, 0: _loss_of_part}
    values = {
        order: function(eta, y, scale, mode, nodes)
        for order, function in functions.items()
        if order in orders
    }
    highest = max(orders)
    if highest > 0:
        values |= dict(enumerate(_derivatives(y, scale, mode, nodes, highest), 1))
    return tuple(values[order] for order in orders)


class _Mode(NamedTuple):
    """Where the density of the effect is largest, given a count.

    Attributes:
        distance: the log rate there, minus ``eta``.
        rate: the rate there.
        curvature: minus the second derivative of the log density in the log rate.
        share: the squared scale times the rate: how much the count says beyond the prior.
    """

    distance: Tensor
    rate: Tensor
    curvature: Tensor
    share: Tensor


def _mode(eta: Tensor, y: Tensor, scale: Tensor) -> _Mode:
    r"""The root of :math:`(x - \eta) / s^2 + e^x = y`.

    With :math:`v = \log(s^2 e^x)` it is the root of :math:`v + e^v = \log s^2 + \eta + s^2 y`,
    which Newton's method finds from above without a line search.
    """
    square = scale.square()
    right = torch.log(square) + eta + square * y
    v = torch.where(right > 1, torch.log(right.clamp(min=1)), right)
    for _ in range(_HALVINGS):
        share = torch.exp(v)
        v = v - (v + share - right) / (1 + share)
    share = torch.exp(v)
    # Each form of the distance is exact where the other cancels.
    distance = torch.where(share < 4, square * y - share, v - torch.log(square) - eta)
    return _Mode(distance, share / square, (1 + share) / square, share)


class _Nodes(NamedTuple):
    """The trapezoidal rule around the mode.

    Attributes:
        away: the distances of the nodes from the mode, ``(n, nodes)``.
        log_sum: the log of the integral of the density over its value at the mode, ``(n,)``.
        probability: the probabilities of the nodes, ``(n, nodes)``.
    """

    away: Tensor
    log_sum: Tensor
    probability: Tensor


def _nodes(mode: _Mode, scale: Tensor) -> _Nodes:
    low, high = _ends(mode, scale)
    reach = high - low
    wanted = float(reach.max()) / _STEP if reach.numel() else 0.0
    # A comparison with NaN is False.
    count = int(min(wanted, _MOST_NODES)) + 1 if wanted > _FEWEST_NODES else _FEWEST_NODES
    step = reach / count
    place = torch.arange(count + 1, dtype=low.dtype, device=low.device)
    away = low.unsqueeze(-1) + step.unsqueeze(-1) * place
    of_count = torch.expm1(away).sub_(away).mul_(mode.rate.unsqueeze(-1))
    of_prior = (away / scale.unsqueeze(-1)).square_()
    density = of_count.add_(of_prior, alpha=0.5).neg_().exp_()
    total = density.sum(-1)
    return _Nodes(away, torch.log(step * total), density.div_(total.unsqueeze(-1)))


def _ends(mode: _Mode, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""How far from the mode the density matters, to both sides.

    The log density falls by :math:`u^2 / (2 s^2) + r (e^u - 1 - u)`. To the left the second term is
    at least :math:`r u^2 / (2 + 2 |u| / 3)`, as in Bernstein's inequality.
    """
    of_prior = math.sqrt(2 * _DEPTH) * scale
    third = _DEPTH / 3
    of_count = (third + torch.sqrt(third * third + 2 * _DEPTH * mode.rate)) / mode.rate
    high = math.sqrt(2 * _DEPTH) * torch.rsqrt(mode.curvature)
    for _ in range(3):
        high = torch.minimum(high, torch.log1p(high + _DEPTH / mode.rate))
    return -torch.minimum(of_prior, of_count), high


def _loss_of_part(eta: Tensor, y: Tensor, scale: Tensor, mode: _Mode, nodes: _Nodes) -> Tensor:
    at_mode = mode.rate - y * (eta + mode.distance)
    return at_mode - _log_weight(scale, mode, nodes)


def _log_prob_of_part(eta: Tensor, y: Tensor, scale: Tensor, mode: _Mode, nodes: _Nodes) -> Tensor:
    return _POISSON.log_prob(y, eta + mode.distance) + _log_weight(scale, mode, nodes)


def _log_weight(scale: Tensor, mode: _Mode, nodes: _Nodes) -> Tensor:
    """The log of the normal density at the mode times the integral around it."""
    prior = 0.5 * (mode.distance / scale).square() + torch.log(scale) + _LOG_ROOT
    return nodes.log_sum - prior


def _derivatives(
    y: Tensor, scale: Tensor, mode: _Mode, nodes: _Nodes, highest: int
) -> list[Tensor]:
    """All derivatives in ``eta`` from the first to the highest."""
    p, square = nodes.probability, scale.square()
    growth = torch.expm1(nodes.away)
    mean_growth = (p * growth).sum(-1)
    mean_rate = mode.rate * (1 + mean_growth)
    mean_away = (p * nodes.away).sum(-1)
    is_weak = mode.share < 1
    weak, strong = mean_rate - y, -(mode.distance + mean_away) / square
    found = [torch.where(is_weak, weak, strong)]
    if highest == 1:
        return found
    rate = mode.rate.unsqueeze(-1) * (growth - mean_growth.unsqueeze(-1))
    away = nodes.away - mean_away.unsqueeze(-1)
    crossed = _crossed_cumulants(p, rate, away, highest - 1)
    # The covariance of the rate and its log never cancels.
    found.append(crossed[1] / square)
    if highest == 2:
        return found
    cumulants = _cumulants(p, rate, highest)
    for order in range(3, highest + 1):
        numbers = _stirling(order)
        terms = [numbers[m] * (-1) ** (m + 1) * cumulants[m] for m in range(2, order + 1)]
        weak = mean_rate + sum(terms[1:], terms[0])
        strong = crossed[order - 1] / square ** (order - 1)
        found.append(torch.where(is_weak, weak, strong))
    return found


def _cumulants(p: Tensor, centred: Tensor, highest: int) -> dict[int, Tensor]:
    """The cumulants of a centred variable, from the second on."""
    moments = _moments(p, centred, highest)
    found: dict[int, Tensor] = {}
    for n in range(2, highest + 1):
        lower = [math.comb(n - 1, k - 1) * found[k] * moments[n - k] for k in range(2, n - 1)]
        found[n] = moments[n] - sum(lower[1:], lower[0]) if lower else moments[n]
    return found


def _crossed_cumulants(p: Tensor, first: Tensor, other: Tensor, highest: int) -> dict[int, Tensor]:
    """The joint cumulants of one centred variable with ``n`` times another one, by ``n``."""
    moments = _moments(p, other, highest)
    crossed = _moments(p * first, other, highest)
    found: dict[int, Tensor] = {}
    for n in range(1, highest + 1):
        lower = [math.comb(n, j) * found[j] * moments[n - j] for j in range(1, n - 1)]
        found[n] = crossed[n] - sum(lower[1:], lower[0]) if lower else crossed[n]
    return found


def _moments(p: Tensor, variable: Tensor, highest: int) -> dict[int, Tensor]:
    found, power = {}, p
    for n in range(1, highest + 1):
        power = power * variable
        found[n] = power.sum(-1)
    return found


@lru_cache
def _stirling(order: int) -> tuple[int, ...]:
    """The Stirling numbers of the second kind of an order, from 0 on."""
    if order == 0:
        return (1,)
    before = (*_stirling(order - 1), 0)
    return tuple((before[m - 1] if m else 0) + m * before[m] for m in range(order + 1))
