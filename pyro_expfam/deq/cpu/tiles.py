"""Products of matrices whose columns are lanes, in the registers of the processor.

Compiled functions sum a tile of a product in registers and write it once. Compilers do not find
this arrangement in loops.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.registers import BYTES, add_product, place

ACROSS = 4 if BYTES == 64 else 2
"""Registers across a tile. A tile of four rows then takes half of the registers that there are."""


def _tile(height: int) -> Any:
    """The function that adds to a tile of some rows of a product."""

    @intrinsic
    def add(typing_context, sums, k, r, panel, p, q, entries, count):
        """Adds to ``sums[k + a, r:]`` the products of ``panel[p + a, q:]`` and ``entries[:, r:]``.

        The tile has as many lanes as fit in the registers across it, and the sums ``count`` terms.
        """
        signature = types.void(sums, k, r, panel, p, q, entries, count)

        def generate(context, builder, signature, arguments):
            of_sums, of_panel, of_entries = (signature.args[n] for n in (0, 3, 6))
            sums, k, r, panel, p, q, entries, count = arguments
            number = context.get_value_type(of_sums.dtype)
            size = context.get_abi_sizeof(number)
            wide = ir.VectorType(number, ACROSS * BYTES // size)
            nothing = ir.Constant(wide, ir.Undefined)
            first = ir.Constant(ir.IntType(32), 0)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), wide.count), None)

            def shifted(index, a):
                return builder.add(index, ir.Constant(index.type, a))

            rows, factors = (
                [
                    place(context, builder, kind, array, shifted(index, a), column, numbers)
                    for a in range(height)
                ]
                for kind, array, index, column, numbers in (
                    (of_sums, sums, k, r, wide),
                    (of_panel, panel, p, q, number),
                )
            )
            totals = [cgutils.alloca_once(builder, wide) for _ in rows]
            for row, total in zip(rows, totals, strict=True):
                builder.store(builder.load(row, align=size), total)
            with cgutils.for_range(builder, count) as loop:
                pointer = place(context, builder, of_entries, entries, loop.index, r, wide)
                entry = builder.load(pointer, align=size)
                for factor, total in zip(factors, totals, strict=True):
                    x = builder.load(builder.gep(factor, [loop.index]))
                    x = builder.insert_element(nothing, x, first)
                    x = builder.shuffle_vector(x, nothing, everywhere)
                    builder.store(add_product(builder, builder.load(total), x, entry), total)
            for row, total in zip(rows, totals, strict=True):
                builder.store(builder.load(total), row, align=size)
            return context.get_dummy_value()

        return signature, generate

    return add


_add_four, _add_two, _add_one = _tile(4), _tile(2), _tile(1)


@numba.njit(**OPTIONS)
def add_products(sums, first, number, panel, p, q, entries, count):
    """Adds the product of a panel with entries of lanes.

    Args:
        sums: where the sums are, ``(rows, lanes or more)``.
        first: the first row of the sums to add to.
        number: how many rows.
        panel: factors, whose rows ``p`` and later belong to the rows of the sums.
        p: that row.
        q: the column of the panel that belongs to the first of the entries.
        entries: what the factors multiply, ``(count or more, lanes)``.
        count: how many products each sum has.
    """
    across = ACROSS * BYTES // sums.itemsize
    lanes = min(sums.shape[1], entries.shape[1]) // across * across
    for r in range(0, lanes, across):
        k = 0
        while k + 4 <= number:
            _add_four(sums, first + k, r, panel, p + k, q, entries, count)
            k += 4
        if k + 2 <= number:
            _add_two(sums, first + k, r, panel, p + k, q, entries, count)
            k += 2
        if k < number:
            _add_one(sums, first + k, r, panel, p + k, q, entries, count)
