"""Sums of products of deviations of lanes, in tiles of the registers of the processor.

Where both factors of a product differ between lanes, it takes two loads. A tile of four by four
sums loads each factor once for four products, and holds the sums in registers meanwhile.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.registers import add_product, place, register_of

HEIGHT = 4
"""Rows and columns of a whole tile."""


def _tile(height: int, is_diagonal: bool) -> Any:
    """The function that adds to a tile of so many rows of packed lower triangles.

    Args:
        height: the rows of the tile.
        is_diagonal: whether its columns are its rows, so that only a triangle is stored. Otherwise
            there are :data:`HEIGHT` columns.
    """
    pairs = [
        (a, b)
        for a in range(height)
        for b in range(height if is_diagonal else HEIGHT)
        if b <= a or not is_diagonal
    ]

    @intrinsic
    def add(typing_context, information, j, k, r, deviation, size, probability, p, count):
        """Adds products of deviations ``j + a`` and ``k + b`` times probabilities to one register.

        ``j`` and ``k`` are the first row and column of the tile. :func:`add_covariances` describes
        the other arguments.
        """
        signature = types.void(information, j, k, r, deviation, size, probability, p, count)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            of_sums, of_deviations, of_weights = (signature.args[n] for n in (0, 4, 6))
            information, j, k, r, deviation, size, probability, p, count = arguments
            number = context.get_value_type(of_sums.dtype)
            align, wide = context.get_abi_sizeof(number), register_of(number)
            zero = ir.Constant(r.type, 0)

            def packed(a: int, b: int) -> Any:
                row = builder.add(j, j.type(a))
                before = builder.mul(row, builder.add(row, row.type(1)))
                column = builder.add(k, k.type(b))
                return builder.add(builder.lshr(before, before.type(1)), column)

            places = [
                place(context, builder, of_sums, information, packed(a, b), r, wide)
                for a, b in pairs
            ]
            totals = [cgutils.alloca_once(builder, wide) for _ in pairs]
            for pointer, total in zip(places, totals, strict=True):
                builder.store(builder.load(pointer, align=align), total)
            with cgutils.for_range(builder, count) as loop:
                first = builder.mul(loop.index, size)

                def factors(of_first: Any, number_of: int, first: Any = first) -> list[Any]:
                    row = builder.add(first, of_first)
                    base = place(context, builder, of_deviations, deviation, row, zero, wide)
                    pointers = (builder.gep(base, [row.type(n)]) for n in range(number_of))
                    return [builder.load(x, align=align) for x in pointers]

                at = builder.add(p, loop.index)
                pointer = place(context, builder, of_weights, probability, at, r, wide)
                weight = builder.load(pointer, align=align)
                rows = factors(j, height)
                columns = rows if is_diagonal else factors(k, HEIGHT)
                weighted = [builder.fmul(weight, x) for x in rows]
                for (a, b), total in zip(pairs, totals, strict=True):
                    before = builder.load(total)
                    builder.store(add_product(builder, before, weighted[a], columns[b]), total)
            for pointer, total in zip(places, totals, strict=True):
                builder.store(builder.load(total), pointer, align=align)
            return context.get_dummy_value()

        return signature, generate

    return add


_beside_one, _beside_two, _beside_three, _beside_four = (_tile(h, False) for h in (1, 2, 3, 4))
_corner_one, _corner_two, _corner_three, _corner_four = (_tile(h, True) for h in (1, 2, 3, 4))


@numba.njit(**OPTIONS)
def add_covariances(deviation, size, probability, p, count, r, information):
    """Adds weighted products of deviations to the information of the lanes of one register.

    Args:
        deviation: deviations, ``(count * size or more, register)``, term after term.
        size: how many deviations a term has.
        probability: the weights of the terms, ``(p + count or more, lanes)``.
        p: the weight of the first term.
        count: the number of terms.
        r: the first lane of the register.
        information: packed lower triangles, ``(size (size + 1) / 2, lanes or more)``.
    """
    j = 0
    while j < size:
        height, k = min(HEIGHT, size - j), 0
        while k < j:
            if height == 4:
                _beside_four(information, j, k, r, deviation, size, probability, p, count)
            elif height == 3:
                _beside_three(information, j, k, r, deviation, size, probability, p, count)
            elif height == 2:
                _beside_two(information, j, k, r, deviation, size, probability, p, count)
            else:
                _beside_one(information, j, k, r, deviation, size, probability, p, count)
            k += HEIGHT
        if height == 4:
            _corner_four(information, j, j, r, deviation, size, probability, p, count)
        elif height == 3:
            _corner_three(information, j, j, r, deviation, size, probability, p, count)
        elif height == 2:
            _corner_two(information, j, j, r, deviation, size, probability, p, count)
        else:
            _corner_one(information, j, j, r, deviation, size, probability, p, count)
        j += HEIGHT
