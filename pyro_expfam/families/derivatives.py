"""Derivatives of functions that act elementwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]


def derivative(function: Elementwise, x: Tensor) -> Tensor:
    """The derivative of an elementwise function, itself differentiable.

    Args:
        function: a function that acts elementwise, and may broadcast its argument.
        x: where to take the derivative, of any shape.
    """
    return derivatives(function, x, 1)[1]


def derivatives(function: Elementwise, x: Tensor, order: int) -> tuple[Tensor, ...]:
    """An elementwise function and its derivatives up to an order, all of them differentiable.

    Args:
        function: a function that acts elementwise, and may broadcast its argument.
        x: where to take the derivatives, of any shape.
        order: the highest derivative.
    """
    if order == 0:
        return (function(x),)

    def highest(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = derivatives(function, x, order - 1)
        return values[-1], values

    value, pull_back, values = _vjp(highest, x)
    if value.shape != x.shape:
        # The slope of an argument that is broadcast is one per value.
        value, pull_back, values = _vjp(highest, x.expand(value.shape))
    (slope,) = pull_back(torch.ones_like(value))
    return (*values, slope)


_Pulled = tuple[Tensor, Callable[[Tensor], tuple[Tensor]], tuple[Tensor, ...]]


def _vjp(function: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]], x: Tensor) -> _Pulled:
    return cast(_Pulled, torch.func.vjp(function, x, has_aux=True))
