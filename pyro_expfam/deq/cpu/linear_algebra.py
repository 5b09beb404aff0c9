"""Solving the systems of all lanes at once, compiled by Numba."""

from __future__ import annotations

import math

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.evaluation import LANES


@numba.njit(**OPTIONS)
def factorise(information, smallest_pivot, factor, resolved):
    """The factorisation ``L D L'`` of all lanes: unit lower ``L``, with ``D`` on its diagonal."""
    resolved[:] = True
    factor[:] = information
    size = int(math.sqrt(2 * len(information)))
    for i in range(size):
        row = i * (i + 1) // 2
        for j in range(i):
            column = j * (j + 1) // 2
            for k in range(j):
                for r in range(LANES):
                    factor[row + j, r] -= factor[row + k, r] * factor[column + k, r]
        # Up to here the entries of the row still carry the pivots of their columns.
        for j in range(i):
            pivot = j * (j + 3) // 2
            for r in range(LANES):
                carrying = factor[row + j, r]
                factor[row + j, r] = carrying / factor[pivot, r]
                factor[row + i, r] -= factor[row + j, r] * carrying
        for r in range(LANES):
            diagonal, pivot = information[row + i, r], factor[row + i, r]
            # A comparison with NaN is False.
            good = (pivot > 0) & (pivot >= smallest_pivot * diagonal) & (diagonal < np.inf)
            resolved[r] &= good


@numba.njit(**OPTIONS)
def substitute(factor, vector, solution):
    """The solutions of all lanes."""
    size = len(vector)
    for i in range(size):
        for r in range(LANES):
            solution[i, r] = vector[i, r]
        for j in range(i):
            for r in range(LANES):
                solution[i, r] -= factor[i * (i + 1) // 2 + j, r] * solution[j, r]
    for i in range(size - 1, -1, -1):
        for r in range(LANES):
            solution[i, r] /= factor[i * (i + 3) // 2, r]
        for j in range(i + 1, size):
            for r in range(LANES):
                solution[i, r] -= factor[j * (j + 1) // 2 + i, r] * solution[j, r]
