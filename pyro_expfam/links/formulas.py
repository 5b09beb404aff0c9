"""Elementwise functions whose derivatives of every order have formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Formula = Callable[[Tensor, int], Tensor]
"""The derivative of an order of a function, at a tensor."""


def by_formula(formula: Formula, x: Tensor, order: int = 0) -> Tensor:
    """A function whose derivatives are computed by its formula, in place of autograd.

    Autograd through a series or a quotient loses digits where its terms cancel, and takes longer.

    Args:
        formula: the derivatives of the function; order 0 is the function itself.
        x: where to compute it, of any shape.
        order: which derivative.
    """
    return _ByFormula.apply(x, formula, order)


def piecewise(is_first: Tensor, x: Tensor, first: Formula, second: Formula, order: int) -> Tensor:
    """One formula where a condition holds and another elsewhere, each computed where it is used."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        count = int(is_first.sum())
        if count == 0:
            return second(x, order)
        if count == x.numel():
            return first(x, order)
    value = torch.empty_like(x)
    value[is_first] = first(x[is_first], order)
    is_second = ~is_first
    value[is_second] = second(x[is_second], order)
    return value


def leibniz(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """The highest derivative of a product, from as many derivatives of both factors."""
    n = len(first) - 1
    terms = [math.comb(n, k) * first[k] * second[n - k] for k in range(n + 1)]
    return sum(terms[1:], terms[0])


class _ByFormula(Function):
    @staticmethod
    def forward(x: Tensor, formula: Formula, order: int) -> Tensor:
        return formula(x, order)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, formula: Formula, order: int) -> tuple[Any, Any]:
        return _ByFormula.apply(x, formula, order), in_dims[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.formula, ctx.order = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return gradient * _ByFormula.apply(x, ctx.formula, ctx.order + 1), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangent * _ByFormula.apply(x, ctx.formula, ctx.order + 1)
