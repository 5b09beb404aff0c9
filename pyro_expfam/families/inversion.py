"""Inverses of monotone functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.derivatives import Elementwise, derivative

REACH = 50.0
"""The largest argument that is looked at."""

HALVINGS = 60
"""Halvings of the interval, after which it is as short as the rounding of its ends."""


def invert_increasing(
    function: Elementwise, value: Tensor, domain: constraints.Constraint = constraints.real
) -> Tensor:
    """Where an elementwise increasing function has a value, by bisection in float64.

    The result is infinite where no argument between -50 and 50 has the value. It is differentiable
    in the value to every order, by the derivative of the inverse function.

    Args:
        function: the function.
        value: its value, of any shape.
        domain: the arguments of the function, an interval.
    """
    return _Inverse.apply(value, function, *_ends(domain))


def invert_monotone(
    function: Elementwise, value: Tensor, domain: constraints.Constraint = constraints.real
) -> Tensor:
    """As :func:`invert_increasing`, for a function that increases or decreases."""
    low, high = _ends(domain)
    quarters = torch.tensor([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
    first, last = function(quarters.double().to(value.device)).reshape(2, -1).mean(-1)
    if first <= last:
        return invert_increasing(function, value, domain)
    return invert_increasing(lambda x: -function(x), -value, domain)


def _ends(domain: constraints.Constraint) -> tuple[float, float]:
    """The ends of a domain, cut at a distance of 50."""
    low = getattr(domain, "lower_bound", None)
    high = getattr(domain, "upper_bound", None)
    low = max(-REACH, -REACH if low is None else float(low))
    return low, min(REACH, REACH if high is None else float(high))


class _Inverse(Function):
    @staticmethod
    def forward(value: Tensor, function: Elementwise, low: float, high: float) -> Tensor:
        target = value.double()
        below, above = torch.full_like(target, low), torch.full_like(target, high)
        for _ in range(HALVINGS):
            middle = 0.5 * (below + above)
            is_low = function(middle) < target
            below, above = torch.where(is_low, middle, below), torch.where(is_low, above, middle)
        found = 0.5 * (below + above)
        # An end that the halvings never left: no argument has the value.
        found = torch.where(below == low, -torch.inf, found)
        return torch.where(above == high, torch.inf, found).to(value.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: Tensor, *others: Any) -> tuple[Tensor, int]:
        return _Inverse.apply(value.movedim(in_dims[0], 0), *others), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, *ctx.others = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (value,) = ctx.saved_tensors
        slope = derivative(ctx.others[0], _Inverse.apply(value, *ctx.others))
        return gradient / slope, None, None, None
