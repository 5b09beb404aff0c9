"""Products of matrices whose rows are lanes, summed over the lanes, compiled by Numba."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.registers import BYTES, add_product, place, register_of

SIDE = 4
"""Rows and columns of a tile of sums, which are in registers."""


@intrinsic
def _add_tile(typing_context: Any, total: Any, first: Any, second: Any, i: Any, j: Any) -> Any:
    """Adds to ``total[i + a, j + b]`` the products of ``first[i + a]`` and ``second[j + b]``."""
    signature = types.void(total, first, second, i, j)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_total, of_first, of_second = signature.args[:3]
        total, first, second, i, j = arguments
        number = context.get_value_type(of_total.dtype)
        size = context.get_abi_sizeof(number)
        register = register_of(number)
        zero = i.type(0)
        rows, columns = (
            [
                place(context, builder, kind, array, builder.add(at, at.type(a)), zero, register)
                for a in range(SIDE)
            ]
            for kind, array, at in ((of_first, first, i), (of_second, second, j))
        )
        tile = [[cgutils.alloca_once(builder, register) for _ in columns] for _ in rows]
        for sums in tile:
            for one in sums:
                builder.store(ir.Constant(register, None), one)
        with cgutils.for_range(builder, i.type(LANES * size // BYTES)) as loop:
            xs, ys = (
                [builder.load(builder.gep(pointer, [loop.index]), align=size) for pointer in side]
                for side in (rows, columns)
            )
            for sums, x in zip(tile, xs, strict=True):
                for one, y in zip(sums, ys, strict=True):
                    builder.store(add_product(builder, builder.load(one), x, y), one)
        name = f"llvm.vector.reduce.fadd.v{register.count}f{8 * size}"
        kind = ir.FunctionType(number, [number, register])
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        for a, sums in enumerate(tile):
            row = builder.add(i, i.type(a))
            pointer = place(context, builder, of_total, total, row, j, number)
            for b, one in enumerate(sums):
                at = builder.gep(pointer, [j.type(b)])
                added = builder.call(
                    reduce, [builder.load(at), builder.load(one)], fastmath=("reassoc",)
                )
                builder.store(added, at)
        return context.get_dummy_value()

    return signature, generate


@numba.njit(**OPTIONS)
def add_dots(total, first, second):
    """Adds the products of all rows of two arrays of lanes.

    Args:
        total: where they go, ``(m, n)``; both are multiples of :data:`SIDE`.
        first: an array ``(m, lanes or more)``.
        second: an array ``(n, lanes or more)``.
    """
    for i in range(0, total.shape[0], SIDE):
        for j in range(0, total.shape[1], SIDE):
            _add_tile(total, first, second, i, j)
