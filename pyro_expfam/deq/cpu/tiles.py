"""Products of matrices whose columns are lanes, in the registers of the processor.

Compiled functions sum a tile of a product in registers and write it once. Compilers do not find
this arrangement in loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.registers import BYTES, add_product, place

ACROSS = 4 if BYTES == 64 else 2
"""Registers across a tile. A tile of four rows then takes half of the registers that there are."""


def _tile(height: int, across: int) -> Any:
    """The function that adds to a tile of so many rows and registers of a product."""

    @intrinsic
    def add(typing_context, sums, k, r, panel, p, q, entries, count):
        """Adds to ``sums[k + a, r:]`` the products of ``panel[p + a, q:]`` and ``entries[:, r:]``.

        The tile has as many lanes as fit in the registers across it, and the sums ``count`` terms.
        The rows or the columns of the panel are contiguous in memory.
        """
        signature = types.void(sums, k, r, panel, p, q, entries, count)

        def generate(context, builder, signature, arguments):
            of_sums, of_panel, of_entries = (signature.args[n] for n in (0, 3, 6))
            sums, k, r, panel, p, q, entries, count = arguments
            number = context.get_value_type(of_sums.dtype)
            size = context.get_abi_sizeof(number)
            wide = ir.VectorType(number, across * BYTES // size)
            nothing = ir.Constant(wide, ir.Undefined)
            first = ir.Constant(ir.IntType(32), 0)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), wide.count), None)

            rows = [
                place(context, builder, of_sums, sums, builder.add(k, k.type(a)), r, wide)
                for a in range(height)
            ]
            factors = _factors(context, builder, of_panel, panel, (p, q), height, number)
            totals = [cgutils.alloca_once(builder, wide) for _ in rows]
            for row, total in zip(rows, totals, strict=True):
                builder.store(builder.load(row, align=size), total)
            with cgutils.for_range(builder, count) as loop:
                pointer = place(context, builder, of_entries, entries, loop.index, r, wide)
                entry = builder.load(pointer, align=size)
                for factor, total in zip(factors(loop.index), totals, strict=True):
                    x = builder.load(factor)
                    x = builder.insert_element(nothing, x, first)
                    x = builder.shuffle_vector(x, nothing, everywhere)
                    builder.store(add_product(builder, builder.load(total), x, entry), total)
            for row, total in zip(rows, totals, strict=True):
                builder.store(builder.load(total), row, align=size)
            return context.get_dummy_value()

        return signature, generate

    return add


def _factors(
    context: Any, builder: Any, kind: Any, panel: Any, at: tuple[Any, Any], height: int, number: Any
) -> Callable[[Any], list[Any]]:
    """The function from a loop's index to pointers to the factors of a tile's rows.

    Args:
        context: the context of the compiler.
        builder: its builder.
        kind: the type of the panel.
        panel: the panel.
        at: the row and the column of its first factor.
        height: how many rows the tile has.
        number: the type of a factor.
    """
    row, column = at
    if kind.layout != "F":
        rows = [
            place(context, builder, kind, panel, builder.add(row, row.type(a)), column, number)
            for a in range(height)
        ]
        return lambda index: [builder.gep(x, [index]) for x in rows]
    array = context.make_array(kind)(context, builder, panel)
    stride = cgutils.unpack_tuple(builder, array.strides, 2)[1]

    def of_column(index: Any) -> list[Any]:
        to_column = builder.mul(builder.add(column, index), stride)
        pointer = cgutils.pointer_add(builder, array.data, to_column)
        first = builder.gep(builder.bitcast(pointer, number.as_pointer()), [row])
        return [builder.gep(first, [row.type(a)]) for a in range(height)]

    return of_column


_add_four, _add_two, _add_one = (_tile(height, ACROSS) for height in (4, 2, 1))
_add_narrow_four, _add_narrow_two, _add_narrow_one = (_tile(height, 1) for height in (4, 2, 1))


@numba.njit(**OPTIONS)
def add_products(sums, first, number, panel, p, q, entries, count):
    """Adds the product of a panel with entries of lanes.

    Args:
        sums: where the sums are, ``(rows, lanes or more)``, in whole registers.
        first: the first row of the sums to add to.
        number: how many rows.
        panel: factors, whose rows ``p`` and later belong to the rows of the sums. Its rows or its
            columns are contiguous in memory.
        p: that row.
        q: the column of the panel that belongs to the first of the entries.
        entries: what the factors multiply, ``(count or more, lanes)``.
        count: how many products each sum has.
    """
    one = BYTES // sums.itemsize
    across, lanes = ACROSS * one, min(sums.shape[1], entries.shape[1])
    wide = lanes // across * across
    for r in range(0, wide, across):
        k = 0
        while k + 4 <= number:
            _add_four(sums, first + k, r, panel, p + k, q, entries, count)
            k += 4
        if k + 2 <= number:
            _add_two(sums, first + k, r, panel, p + k, q, entries, count)
            k += 2
        if k < number:
            _add_one(sums, first + k, r, panel, p + k, q, entries, count)
    for r in range(wide, lanes // one * one, one):
        k = 0
        while k + 4 <= number:
            _add_narrow_four(sums, first + k, r, panel, p + k, q, entries, count)
            k += 4
        if k + 2 <= number:
            _add_narrow_two(sums, first + k, r, panel, p + k, q, entries, count)
            k += 2
        if k < number:
            _add_narrow_one(sums, first + k, r, panel, p + k, q, entries, count)
