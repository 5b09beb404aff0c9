"""Where to start rows of a large table that are alike, compiled by Numba.

Rows without an offset or weights of their own differ only in :math:`T(y) W`, and their roots are a
smooth function of that statistic. Rows on a grid of statistics are solved first; interpolation
between them gives all other rows a start.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.cpu.compilation import compiled_once

ROWS_OF_A_NODE = 40
"""Rows of the table per node of the grid, at least."""

LARGEST_GRID = {1: 512, 2: 64}
"""Nodes along each latent, indexed by the number of latents."""


SAMPLE = 1_000
"""Rows that are sampled to find out where the statistics lie."""


class Warp(NamedTuple):
    r"""Coordinates in which statistics of counts are spread evenly and roots are nearly linear.

    The coordinates are :math:`\operatorname{arsinh}((s - c) / a)`: linear around the centre and
    logarithmic far from it, like the natural parameters of counts.

    Attributes:
        centre: :math:`c`, ``(l,)``.
        scale: :math:`a`, ``(l,)``.
    """

    centre: Any
    scale: Any

    @classmethod
    def of(cls, statistics: np.ndarray) -> Warp:
        """The warp for statistics ``(N, l)``."""
        sample = statistics[:: max(1, len(statistics) // SAMPLE)]
        centre = np.median(sample, 0).astype(sample.dtype)
        # A third of the deviation did best on tables with up to 50 features.
        scale = np.abs(sample - centre).mean(0) / 3
        return cls(centre, np.maximum(scale, np.finfo(sample.dtype).tiny ** 0.5))

    def statistics(self, coordinates: np.ndarray) -> np.ndarray:
        """The statistics at coordinates ``(N, l)``."""
        return self.centre + self.scale * np.sinh(coordinates)


@compiled_once
def warp(centre, scale, statistics, coordinates, begin, end):
    """Writes the coordinates of statistics ``(N, l)``, from row ``begin`` to ``end``."""
    for s in range(begin, end):
        for k in range(len(centre)):
            coordinates[s, k] = math.asinh((statistics[s, k] - centre[k]) / scale[k])


class Grid(NamedTuple):
    """Coordinates of statistics on a grid.

    Attributes:
        low: the least coordinate of each latent, ``(l,)``.
        spacing: the distance between neighbours, ``(l,)``.
        size: the number of nodes along each latent.
    """

    low: Any
    spacing: Any
    size: int

    @classmethod
    def around(cls, place: np.ndarray) -> Grid:
        """The grid that reaches from the least to the largest coordinates ``(N, l)``."""
        num_rows, latent_dim = place.shape
        wanted = round((num_rows / ROWS_OF_A_NODE) ** (1 / latent_dim))
        # Slopes at the ends are fitted to three nodes.
        size = max(3, min(wanted, LARGEST_GRID[latent_dim]))
        # Column by column: along the rows of a narrow array this takes many times as long.
        low = np.array([column.min() for column in place.T])
        high = np.array([column.max() for column in place.T])
        return cls(low, np.maximum((high - low) / (size - 1), np.finfo(low.dtype).tiny), size)


def nodes(grid: Grid) -> np.ndarray:
    """All places of a grid, ``(size ** l, l)``; the last latent varies fastest."""
    steps = np.arange(grid.size, dtype=grid.low.dtype)
    axes = [low + spacing * steps for low, spacing in zip(grid.low, grid.spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def tangents(grid: Grid, roots: np.ndarray) -> np.ndarray:
    """Roots on a grid, and half of their changes from one node to the next.

    Args:
        grid: the grid.
        roots: latents at its nodes, ``(size ** l, l)``.

    Returns:
        An array ``(size ** l, l + 1, l)``: the roots, and half of the changes along each latent.
    """
    latent_dim = roots.shape[1]
    on_grid = roots.reshape(*(grid.size,) * latent_dim, latent_dim)
    along = [np.gradient(on_grid, axis=k, edge_order=2) / 2 for k in range(latent_dim)]
    return np.stack([on_grid, *along], -2).reshape(-1, latent_dim + 1, latent_dim)


@compiled_once
def interpolate_one(low, spacing, size, tangents, place, start, begin, end):
    """As :func:`interpolate_two` for one latent."""
    for s in range(begin, end):
        position = (place[s, 0] - low[0]) / spacing[0]
        cell = min(max(int(position), 0), size - 2)
        x = position - cell
        below = tangents[cell, 0, 0] + x * tangents[cell, 1, 0]
        above = tangents[cell + 1, 0, 0] + (x - 1) * tangents[cell + 1, 1, 0]
        start[s, 0] = (1 - x) * below + x * above


@compiled_once
def interpolate_two(low, spacing, size, tangents, place, start, begin, end):
    """Writes the starts of rows at places ``(N, l)`` by :func:`tangents` on a grid.

    Each corner of a row's cell contributes its root plus half of the change along its tangent to
    the row, with the weights of linear interpolation. To second order, the interpolated roots and
    the interpolated tangents have errors of the same size and opposite signs, which cancel.
    """
    one = place.dtype.type(1)
    for s in range(begin, end):
        first, second = (
            (place[s, 0] - low[0]) / spacing[0],
            (place[s, 1] - low[1]) / spacing[1],
        )
        i, j = min(max(int(first), 0), size - 2), min(max(int(second), 0), size - 2)
        x, y = first - i, second - j
        z0, z1 = x * 0, x * 0
        for a in range(2):
            for b in range(2):
                node = (i + a) * size + j + b
                weight = (x if a else one - x) * (y if b else one - y)
                along, across = x - a, y - b
                z0 += weight * (
                    tangents[node, 0, 0]
                    + along * tangents[node, 1, 0]
                    + across * tangents[node, 2, 0]
                )
                z1 += weight * (
                    tangents[node, 0, 1]
                    + along * tangents[node, 1, 1]
                    + across * tangents[node, 2, 1]
                )
        start[s, 0], start[s, 1] = z0, z1


INTERPOLATE = {1: interpolate_one, 2: interpolate_two}
"""The interpolation, indexed by the number of latents."""
