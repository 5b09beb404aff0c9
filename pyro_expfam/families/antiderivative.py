"""The antiderivative of an elementwise function, on the real line and above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

Activation = Callable[[Tensor], Tensor]
"""A function of tensors, elementwise."""

REACH = 50
"""Integrals from 0 to the whole numbers up to this one are tabled."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)

PANEL = 0.04
"""The length of a panel of 16 nodes above the real line. With a pole at a distance of 0.03, the
integral still has 15 digits."""


class Antiderivative:
    r"""The function :math:`A(r) = \int_0^r \sigma(x)\, dx`, with ``activation`` as derivative.

    Args:
        activation: the function :math:`\sigma`, of real tensors and, for :meth:`above`, complex
            ones.
    """

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        ends = torch.arange(-REACH, REACH, dtype=torch.float64)
        panels = _integrals(activation, ends, torch.ones((), dtype=torch.float64))
        up = torch.cumsum(panels[REACH:], 0)
        down = torch.cumsum(panels[:REACH].flip(0), 0).flip(0)
        self._at_whole_numbers = torch.cat([-down, up.new_zeros(1), up])

    def __call__(self, r: Tensor) -> Tensor:
        """The antiderivative at real numbers, computed in double precision."""
        return _Value.apply(r, self)

    def value(self, r: Tensor) -> Tensor:
        """The same in double precision, without a derivative."""
        precise = r.detach().double()
        start = precise.nan_to_num(nan=0.0).clamp(-REACH, REACH).round()
        table = self._at_whole_numbers.to(precise.device)
        tabled = table[(start + REACH).long()]
        return tabled + _integrals(self.activation, start, precise - start)

    def above(self, r: Tensor, step: float, count: int) -> Tensor:
        r"""The differences :math:`A(r + i s) - A(r)` at ``s = 0, step, ..., count * step``.

        Args:
            r: real numbers in double precision, ``(n,)``.
            step: a distance.
            count: how many steps.

        Returns:
            A complex tensor ``(n, count + 1)``.
        """
        panels = max(1, int(np.ceil(step / PANEL)))
        length = step / panels
        starts = length * torch.arange(count * panels, dtype=torch.float64)
        from_here = torch.complex(*torch.broadcast_tensors(r[:, None], starts))
        along = 1j * torch.tensor(length, dtype=torch.complex128)
        parts = _integrals(self.activation, from_here, along)
        sums = parts.reshape(len(r), count, panels).sum(-1).cumsum(-1)
        return torch.cat([sums.new_zeros(len(r), 1), sums], -1)

    def on_line(self, points: Tensor) -> Tensor:
        """The antiderivative at complex numbers of one real part, of any shape."""
        real, height = points.real.flatten(), points.imag.flatten()
        size = height.abs()
        count = int(float(size.max()) / PANEL) + 1
        table = self.above(real[:1], PANEL, count)[0]
        place = (size / PANEL).floor()
        begin = torch.complex(real, place * PANEL)
        rest = torch.complex(torch.zeros_like(size), size - place * PANEL)
        sums = table[place.long()] + _integrals(self.activation, begin, rest)
        # At complex conjugate numbers, values are complex conjugate.
        sums = torch.where(height < 0, sums.conj(), sums)
        return (self.value(real) + sums).reshape(points.shape)


def _integrals(activation: Activation, start: Tensor, length: Tensor) -> Tensor:
    """Integrals over straight lines, by 16 nodes of Gauss and Legendre."""
    total: Tensor | float = 0.0
    for node, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):
        total = total + weight * activation(start + 0.5 * (1 + node) * length)
    return 0.5 * length * total


class _Value(Function):
    """The antiderivative, whose derivative is the activation itself."""

    @staticmethod
    def forward(r: Tensor, antiderivative: Antiderivative) -> Tensor:
        return antiderivative.value(r).to(r.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, r: Tensor, antiderivative: Any) -> tuple[Tensor, int]:
        return _Value.apply(r.movedim(in_dims[0], 0), antiderivative), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        r, ctx.antiderivative = inputs
        ctx.save_for_backward(r)
        ctx.save_for_forward(r)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (r,) = ctx.saved_tensors
        return gradient * ctx.antiderivative.activation(r), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        (r,) = ctx.saved_tensors
        return tangent * ctx.antiderivative.activation(r)
