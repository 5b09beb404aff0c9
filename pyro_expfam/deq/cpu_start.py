"""Where to start rows of a large table that are alike, compiled by Numba.

Rows without an offset or weights of their own differ only in :math:`T(y) W`, and their roots are a
smooth function of it. A grid of such statistics, which is solved first, gives all rows a start by
linear interpolation. As a convex combination of roots it is as safe a start as these are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.cpu_kernel import compiled_once


class Grid(NamedTuple):
    """Statistics on a grid.

    Attributes:
        low: the least statistic of each latent, ``(l,)``.
        spacing: from one to the next, ``(l,)``.
        size: how many there are of each latent.
    """

    low: Any
    spacing: Any
    size: int


@compiled_once
def interpolate(grid, roots, statistics, start, begin, end):  # type: ignore[no-untyped-def]
    """Writes the starts of rows from ``begin`` to ``end``, given the roots on a grid.

    The last latent of the grid varies fastest in ``roots``, ``(grid.size ** l, l)``.
    """
    low, spacing, size = grid
    latent_dim = statistics.shape[1]
    cell = np.zeros(latent_dim, np.int64)
    share = np.zeros(latent_dim, statistics.dtype)
    for s in range(begin, end):
        for k in range(latent_dim):
            position = (statistics[s, k] - low[k]) / spacing[k]
            cell[k] = min(max(int(position), 0), size - 2)
            share[k] = position - cell[k]
            start[s, k] = 0
        for corner in range(1 << latent_dim):
            weight = share.dtype.type(1)
            place = 0
            for k in range(latent_dim):
                above = (corner >> k) & 1
                weight *= share[k] if above else 1 - share[k]
                place = place * size + cell[k] + above
            for k in range(latent_dim):
                start[s, k] += weight * roots[place, k]
