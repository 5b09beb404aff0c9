"""A log base measure that is computed once at evenly spaced points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 64
"""So many neighbours are computed together, when one of them is asked for."""

STENCIL = 8
"""The neighbours that a smooth function is interpolated from."""


class BaseTable:
    """A function of one number, kept at evenly spaced points.

    Args:
        function: the function, of points ``(n,)`` in double precision.
        spacing: the distance of neighbours.
        origin: one of the points.
        is_lattice: whether it is asked for at these points alone. Otherwise it is smooth, and
            interpolated by polynomials of degree 7.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        spacing: float,
        origin: float,
        is_lattice: bool,
    ) -> None:
        self._function, self._spacing, self._origin = function, spacing, origin
        self._is_lattice = is_lattice
        self._blocks: dict[int, Tensor] = {}

    def __call__(self, y: Tensor) -> Tensor:
        """The function at points of any shape, in double precision."""
        place = (y - self._origin) / self._spacing
        if self._is_lattice:
            return self._at(place.round().long())
        first = place.floor().long() - (STENCIL // 2 - 1)
        steps = torch.arange(STENCIL)
        values = self._at(first[..., None] + steps)
        found = (values * _lagrange(place - first)).sum(-1)
        # Next to the end of a support there is no smooth function to interpolate.
        broken = ~found.isfinite()
        if bool(broken.any()):
            found[broken] = self._function(y[broken])
        return found

    def _at(self, index: Tensor) -> Tensor:
        if index.numel() == 0:
            return torch.zeros(index.shape, dtype=torch.float64)
        block = index.div(BLOCK, rounding_mode="floor")
        wanted = torch.unique(block)
        for number in wanted.tolist():
            if number not in self._blocks:
                places = number * BLOCK + torch.arange(BLOCK)
                self._blocks[number] = self._function(
                    self._origin + self._spacing * places.double()
                )
        table = torch.stack([self._blocks[number] for number in wanted.tolist()])
        return table[torch.searchsorted(wanted, block), index - block * BLOCK]


def _lagrange(x: Tensor) -> Tensor:
    """The weights of values at 0, 1, ... for the value at ``x``, along a new last dimension."""
    nodes = torch.arange(STENCIL, dtype=x.dtype)
    weights = []
    for k in range(STENCIL):
        others = torch.cat([nodes[:k], nodes[k + 1 :]])
        weights.append(((x[..., None] - others) / (nodes[k] - others)).prod(-1))
    return torch.stack(weights, -1)
