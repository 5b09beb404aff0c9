"""Solving the systems of all lanes at once, compiled by Numba.

The Cholesky factors of as many lanes as fit in a register are found together, tile by tile.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.registers import (
    ABREAST,
    BYTES,
    everywhere,
    keep_resolved,
    less_product,
    load,
    load_abreast,
    place,
    reciprocal_root,
    register_of,
    store,
    subtract_product,
    times,
)

FEW = 12
"""Up to so many unknowns, systems are solved without tiles."""

SIDE = 4
"""Rows and columns of a tile of a matrix, whose entries are in registers."""


def _reduce(on_diagonal: bool) -> Any:
    """The function that finds the entries of a factor in a tile, from those to its left."""

    @intrinsic
    def reduce_tile(typing_context, factor, i, j):
        """Finds the entries of a tile that begins in row ``i`` and column ``j``.

        In a tile on the diagonal, the products with entries of the tile itself are still to be
        subtracted.
        """
        signature = types.void(factor, i, j)

        def generate(context, builder, signature, arguments):
            kind = signature.args[0]
            factor, i, j = arguments
            size = kind.dtype.bitwidth // 8
            register = register_of(context.get_value_type(kind.dtype))
            zero = i.type(0)

            def row(index, a):
                # Rows of a packed lower triangle.
                index = builder.add(index, index.type(a))
                first = builder.mul(index, builder.add(index, index.type(1)))
                first = builder.lshr(first, index.type(1))
                return place(context, builder, kind, factor, first, zero, register)

            def at(row, column):
                return builder.load(builder.gep(row, [column]), align=size)

            rows, others = ([row(index, a) for a in range(SIDE)] for index in (i, j))
            columns = [builder.add(j, j.type(b)) for b in range(SIDE)]
            wanted = [(a, b) for a in range(SIDE) for b in range(a + 1 if on_diagonal else SIDE)]
            tile = {entry: cgutils.alloca_once(builder, register) for entry in wanted}
            for a, b in wanted:
                builder.store(at(rows[a], columns[b]), tile[a, b])
            with cgutils.for_range(builder, j) as loop:
                left = [at(pointer, loop.index) for pointer in rows]
                above = left if on_diagonal else [at(x, loop.index) for x in others]
                for a, b in wanted:
                    total = builder.load(tile[a, b])
                    builder.store(subtract_product(builder, total, left[a], above[b]), tile[a, b])
            found: dict[tuple[int, int], Any] = {}
            for a, b in wanted:
                total = builder.load(tile[a, b])
                if not on_diagonal:
                    for c in range(b):
                        total = subtract_product(
                            builder, total, found[a, c], at(others[b], columns[c])
                        )
                    total = builder.fmul(total, at(others[b], columns[b]))
                found[a, b] = total
                builder.store(total, builder.gep(rows[a], [columns[b]]), align=size)
            return context.get_dummy_value()

        return signature, generate

    return reduce_tile


_reduce_below, _reduce_diagonal = _reduce(on_diagonal=False), _reduce(on_diagonal=True)


@numba.njit(**OPTIONS)
def factor_memory(size, like):
    """Memory for the factors of as many lanes as fit in a register, ``(entries, lanes)``.

    Factors are packed lower triangles with reciprocals on the diagonal, and rows are padded to
    whole tiles. Below a factor there is room for a vector.
    """
    padded = -(-size // SIDE) * SIDE
    entries = padded * (padded + 1) // 2
    return np.zeros((entries + padded, BYTES // like.itemsize), like.dtype)


@numba.njit(**OPTIONS)
def solve_lanes(information, vector, smallest_pivot, solution, resolved, factor):
    """Solves the systems of all lanes.

    Args:
        information: packed lower triangles of the matrices, ``(l (l + 1) / 2, lanes)``.
        vector: right-hand sides, ``(l, lanes)``.
        smallest_pivot: the least pivot of a resolved matrix, as a part of its diagonal entry.
        solution: where the solutions go, ``(l, lanes)``.
        resolved: whether the matrix of each lane is positive definite and resolved.
        factor: :func:`factor_memory`.
    """
    size = len(vector)
    if size <= FEW:
        for first in range(0, LANES, ABREAST * BYTES // factor.itemsize):
            solve_few(information, vector, size, first, smallest_pivot, solution, resolved)
        return
    for first in range(0, LANES, factor.shape[1]):
        factorise(information, size, first, smallest_pivot, factor, resolved)
        substitute(factor, vector, size, first, solution)


@numba.njit(**OPTIONS)
def solve_few(information, vector, size, first, smallest_pivot, solution, resolved):
    """As :func:`solve_lanes` for the lanes of several registers, with few unknowns.

    Pivots wait for one another. Tiles would be mostly padding, and a register alone mostly waits.
    """
    whole_registers()
    smallest = information.dtype.type(smallest_pivot)
    factor = np.empty((FEW * (FEW + 1) // 2, ABREAST * BYTES // information.itemsize), vector.dtype)
    for r in range(factor.shape[1]):
        resolved[first + r] = True
    for i in range(size):
        row = i * (i + 1) // 2
        diagonal = load_abreast(information, row + i, first)
        pivot, part = diagonal, load_abreast(vector, i, first)
        for j in range(i):
            column = j * (j + 1) // 2
            entry = load_abreast(information, row + j, first)
            for k in range(j):
                left, above = load_abreast(factor, row + k, 0), load_abreast(factor, column + k, 0)
                entry = less_product(entry, left, above)
            entry = times(entry, load_abreast(factor, column + j, 0))
            store(factor, row + j, 0, entry)
            pivot = less_product(pivot, entry, entry)
            part = less_product(part, entry, load_abreast(solution, j, first))
        keep_resolved(resolved, first, pivot, diagonal, smallest)
        inverse = reciprocal_root(pivot)
        store(factor, row + i, 0, inverse)
        store(solution, i, first, times(part, inverse))
    for i in range(size - 1, -1, -1):
        row = i * (i + 1) // 2
        found = times(load_abreast(solution, i, first), load_abreast(factor, row + i, 0))
        store(solution, i, first, found)
        for j in range(i):
            rest, entry = load_abreast(solution, j, first), load_abreast(factor, row + j, 0)
            store(solution, j, first, less_product(rest, entry, found))


@numba.njit(**OPTIONS)
def factorise(information, size, first, smallest_pivot, factor, resolved):
    """The Cholesky factors of lanes from ``first`` on."""
    whole_registers()
    smallest, nothing = factor.dtype.type(smallest_pivot), everywhere(factor.dtype.type(0))
    for r in range(BYTES // factor.itemsize):
        resolved[first + r] = True
    for i in range(0, size, SIDE):
        end = min(size, i + SIDE)
        for k in range(i * (i + 1) // 2, end * (end + 1) // 2):
            store(factor, k, 0, load(information, k, first))
        # Rows beyond the last are rows of the identity.
        for a in range(end, i + SIDE):
            row = a * (a + 1) // 2
            for b in range(a):
                store(factor, row + b, 0, nothing)
            store(factor, row + a, 0, everywhere(factor.dtype.type(1)))
        for j in range(0, i, SIDE):
            _reduce_below(factor, i, j)
        _reduce_diagonal(factor, i, i)
        for a in range(i, end):
            row = a * (a + 1) // 2
            pivot = load(factor, row + a, 0)
            for b in range(i, a):
                column = b * (b + 1) // 2
                entry = load(factor, row + b, 0)
                for k in range(i, b):
                    entry = less_product(
                        entry, load(factor, row + k, 0), load(factor, column + k, 0)
                    )
                entry = times(entry, load(factor, column + b, 0))
                store(factor, row + b, 0, entry)
                pivot = less_product(pivot, entry, entry)
            store(factor, row + a, 0, reciprocal_root(pivot))
            diagonal = load(information, row + a, first)
            keep_resolved(resolved, first, pivot, diagonal, smallest)


@numba.njit(**OPTIONS)
def substitute(factor, vector, size, first, solution):
    """The solutions of the systems of lanes from ``first`` on."""
    padded = -(-size // SIDE) * SIDE
    # The vector below the factor.
    x = padded * (padded + 1) // 2
    for k in range(size, padded):
        store(factor, x + k, 0, everywhere(factor.dtype.type(0)))
    for k in range(size):
        store(factor, x + k, 0, load(vector, k, first))
    for i in range(0, padded, SIDE):
        row, row1 = i * (i + 1) // 2, (i + 1) * (i + 2) // 2
        row2, row3 = row1 + i + 2, row1 + 2 * i + 5
        x0, x1 = load(factor, x + i, 0), load(factor, x + i + 1, 0)
        x2, x3 = load(factor, x + i + 2, 0), load(factor, x + i + 3, 0)
        for k in range(i):
            known = load(factor, x + k, 0)
            x0 = less_product(x0, load(factor, row + k, 0), known)
            x1 = less_product(x1, load(factor, row1 + k, 0), known)
            x2 = less_product(x2, load(factor, row2 + k, 0), known)
            x3 = less_product(x3, load(factor, row3 + k, 0), known)
        x0 = times(x0, load(factor, row + i, 0))
        x1 = less_product(x1, load(factor, row1 + i, 0), x0)
        x1 = times(x1, load(factor, row1 + i + 1, 0))
        x2 = less_product(x2, load(factor, row2 + i, 0), x0)
        x2 = less_product(x2, load(factor, row2 + i + 1, 0), x1)
        x2 = times(x2, load(factor, row2 + i + 2, 0))
        x3 = less_product(x3, load(factor, row3 + i, 0), x0)
        x3 = less_product(x3, load(factor, row3 + i + 1, 0), x1)
        x3 = less_product(x3, load(factor, row3 + i + 2, 0), x2)
        x3 = times(x3, load(factor, row3 + i + 3, 0))
        store(factor, x + i, 0, x0)
        store(factor, x + i + 1, 0, x1)
        store(factor, x + i + 2, 0, x2)
        store(factor, x + i + 3, 0, x3)
    for i in range(padded - SIDE, -1, -SIDE):
        row, row1 = i * (i + 1) // 2, (i + 1) * (i + 2) // 2
        row2, row3 = row1 + i + 2, row1 + 2 * i + 5
        x3 = times(load(factor, x + i + 3, 0), load(factor, row3 + i + 3, 0))
        x2 = less_product(load(factor, x + i + 2, 0), load(factor, row3 + i + 2, 0), x3)
        x2 = times(x2, load(factor, row2 + i + 2, 0))
        x1 = less_product(load(factor, x + i + 1, 0), load(factor, row3 + i + 1, 0), x3)
        x1 = less_product(x1, load(factor, row2 + i + 1, 0), x2)
        x1 = times(x1, load(factor, row1 + i + 1, 0))
        x0 = less_product(load(factor, x + i, 0), load(factor, row3 + i, 0), x3)
        x0 = less_product(x0, load(factor, row2 + i, 0), x2)
        x0 = less_product(x0, load(factor, row1 + i, 0), x1)
        x0 = times(x0, load(factor, row + i, 0))
        store(factor, x + i, 0, x0)
        store(factor, x + i + 1, 0, x1)
        store(factor, x + i + 2, 0, x2)
        store(factor, x + i + 3, 0, x3)
        for k in range(i):
            rest = less_product(load(factor, x + k, 0), load(factor, row3 + k, 0), x3)
            rest = less_product(rest, load(factor, row2 + k, 0), x2)
            rest = less_product(rest, load(factor, row1 + k, 0), x1)
            rest = less_product(rest, load(factor, row + k, 0), x0)
            store(factor, x + k, 0, rest)
    for k in range(size):
        store(solution, k, first, load(factor, x + k, 0))
