"""The latents of figure 2 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

GRID_SIZE = 316
"""Points on a side of the grid, about 10^5 in all, as in the published code."""

NUM_ROWS = 42_453
"""Points of the grid inside the shapes."""


def true_latents() -> Tensor:
    """The points of a grid on [-5, 5]^2 inside one of three shapes, ``(42453, 2)``.

    The shapes are a disc of radius 3 about (2, 2), a disc of radius 2 about (-3, -3), and the
    points whose absolute distances from (4, -4) sum to less than 1 (appendix C of the paper).
    """
    side = torch.linspace(-5, 5, GRID_SIZE)
    points = torch.cartesian_prod(side, side)
    large_disc = (points - 2).norm(dim=1) < 3
    small_disc = (points + 3).norm(dim=1) < 2
    diamond = (points - torch.tensor([4.0, -4.0])).abs().sum(1) < 1
    return points[large_disc | small_disc | diamond]


def some_latents(num_rows: int) -> Tensor:
    """``num_rows`` of the true latents, drawn without replacement; all of them in their order."""
    points = true_latents()
    if num_rows == len(points):
        return points
    if not 1 <= num_rows < len(points):
        raise ValueError(f"num_rows must be between 1 and {len(points)}, got {num_rows}")
    return points[torch.randperm(len(points))[:num_rows]]
