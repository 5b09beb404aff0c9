"""Inverses of many small matrices, compiled by Numba: a lane of a register holds a matrix."""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.linear_algebra import factor_memory, factorise
from pyro_expfam.deq.cpu.registers import BYTES, less_product, load, store, times
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, ENTRIES_TO_SOLVE, in_threads, spans


def invert(matrices: Tensor, ridge: float) -> None:
    """Inverts symmetric positive definite matrices ``(n, k, k)``, contiguous, in place.

    Args:
        matrices: the matrices. In place of one that has no Cholesky factor the inverse of its
            diagonal is written.
        ridge: what is added to each diagonal entry, as a part of the mean of the diagonal.
    """
    array = matrices.numpy()
    rows = spans(len(array), array[:1].size, ENTRIES_TO_SOLVE)
    in_threads(partial(_invert, array, array.dtype.type(ridge)), rows)


def products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products ``(n, k)`` of symmetric matrices ``(n, k, k)`` with vectors ``(n, k)``, contiguous.

    Libraries for products of large matrices take several times as long as reading so small ones.
    """
    found = torch.zeros_like(vectors)
    arrays = [x.detach().numpy() for x in (matrices, vectors, found)]
    rows = spans(len(vectors), matrices[:1].numel(), ENTRIES_TO_READ)
    in_threads(partial(_add_products, *arrays), rows)
    return found


@compiled_once
def _add_products(matrices, vectors, total, begin, end):
    """Adds the products of the matrices from ``begin`` to ``end`` with vectors."""
    whole_registers()
    size = vectors.shape[1]
    for r in range(begin, end):
        for i in range(size):
            matrix, sums, x = matrices[r, i], total[r], vectors[r, i]
            for j in range(size):
                sums[j] += x * matrix[j]


@compiled_once
def _invert(matrices, ridge, begin, end):
    """Inverts the matrices from ``begin`` to ``end``."""
    size, lanes = matrices.shape[1], BYTES // matrices.itemsize
    entries = size * (size + 1) // 2
    packed = np.zeros((entries, lanes), matrices.dtype)
    inverse = np.zeros((entries + 1, lanes), matrices.dtype)
    factor, resolved = factor_memory(size, matrices), np.zeros(lanes, np.bool_)
    for first in range(begin, end, lanes):
        count = min(lanes, end - first)
        some = matrices[first : first + count]
        _load(some, ridge, packed)
        factorise(packed, size, 0, ridge * 0, factor, resolved)
        _invert_factor(size, factor, inverse)
        _multiply(size, inverse, factor)
        _write(factor, packed, resolved, some)


@numba.njit(**OPTIONS)
def _load(matrices, ridge, packed):
    """Puts matrices into lanes; idle lanes keep what they have."""
    size = matrices.shape[1]
    for r in range(len(matrices)):
        place, trace = 0, ridge * 0
        for i in range(size):
            trace += matrices[r, i, i]
            for j in range(i + 1):
                packed[place, r] = matrices[r, i, j]
                place += 1
        added = ridge * trace / size + np.sqrt(np.finfo(matrices.dtype).tiny)
        for i in range(size):
            packed[i * (i + 3) // 2, r] += added


@numba.njit(**OPTIONS)
def _invert_factor(size, factor, inverse):
    """The inverses of lower factors, whose diagonals hold reciprocals, ``M``."""
    whole_registers()
    zero = size * (size + 1) // 2
    for j in range(size):
        store(inverse, j * (j + 3) // 2, 0, load(factor, j * (j + 3) // 2, 0))
        for i in range(j + 1, size):
            row = i * (i + 1) // 2
            entry = load(inverse, zero, 0)
            for k in range(j, i):
                known = load(inverse, k * (k + 1) // 2 + j, 0)
                entry = less_product(entry, load(factor, row + k, 0), known)
            store(inverse, row + j, 0, times(entry, load(factor, row + i, 0)))


@numba.njit(**OPTIONS)
def _multiply(size, inverse, product):
    """Minus ``M' M``, in packed lower triangles."""
    whole_registers()
    zero = size * (size + 1) // 2
    for i in range(size):
        for j in range(i + 1):
            entry = load(inverse, zero, 0)
            for k in range(i, size):
                row = k * (k + 1) // 2
                entry = less_product(entry, load(inverse, row + i, 0), load(inverse, row + j, 0))
            store(product, i * (i + 1) // 2 + j, 0, entry)


@numba.njit(**OPTIONS)
def _write(product, packed, resolved, matrices):
    """Writes the inverses of lanes, from minus their lower triangles."""
    size, zero = matrices.shape[1], matrices.dtype.type(0)
    for r in range(len(matrices)):
        place = 0
        for i in range(size):
            for j in range(i):
                entry = -product[place, r] if resolved[r] else zero
                matrices[r, i, j] = entry
                matrices[r, j, i] = entry
                place += 1
            matrices[r, i, i] = -product[place, r] if resolved[r] else 1 / packed[place, r]
            place += 1
