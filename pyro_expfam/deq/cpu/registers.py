"""Registers of the processor in compiled functions: a register holds one number of several lanes.

Compilers put loops over lanes into registers too, and test before each loop whether its arrays
overlap. For few lanes the tests take longer than the loop.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

CONTRACTED = ("contract",)


def _size() -> int:
    """The bytes of a register."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


BYTES = _size()


class Register(types.Type):
    """The type of a register in compiled functions.

    Attributes:
        dtype: the type of its numbers.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Register({dtype}, {BYTES})")


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Register) -> None:
        super().__init__(manager, kind, register_of(manager.lookup(kind.dtype).get_value_type()))


def register_of(number: Any) -> Any:
    """The type of registers of numbers, for the compiler's builder."""
    return ir.VectorType(number, BYTES // {"float": 4, "double": 8}[str(number)])


def place(
    context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any, numbers: Any
) -> Any:
    """A pointer to numbers of an array with two dimensions, for the compiler's builder."""
    found = context.make_array(kind)(context, builder, array)
    size = ir.Constant(column.type, context.get_abi_sizeof(context.get_value_type(kind.dtype)))
    to_row = builder.mul(row, cgutils.unpack_tuple(builder, found.strides, 2)[0])
    pointer = cgutils.pointer_add(
        builder, found.data, builder.add(to_row, builder.mul(column, size))
    )
    return builder.bitcast(pointer, numbers.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
    """The numbers of a row of an array from a column on, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        array, row, column = arguments
        pointer = place(context, builder, signature.args[0], array, row, column, kind)
        return builder.load(pointer, align=_alignment(signature.args[0]))

    return Register(array.dtype)(array, row, column), generate


@intrinsic
def store(typing_context: Any, array: Any, row: Any, column: Any, register: Any) -> Any:
    """Writes a register to a row of an array from a column on, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, row, column, value = arguments
        pointer = place(context, builder, signature.args[0], array, row, column, value.type)
        builder.store(value, pointer, align=_alignment(signature.args[0]))
        return context.get_dummy_value()

    return types.void(array, row, column, register), generate


def _alignment(array: Any) -> int:
    return int(array.dtype.bitwidth // 8)


@intrinsic
def times(typing_context: Any, x: Any, y: Any) -> Any:
    """The product of two registers, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments)

    return x(x, y), generate


@intrinsic
def less_product(typing_context: Any, total: Any, x: Any, y: Any) -> Any:
    """A register minus the product of two, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return subtract_product(builder, *arguments)

    return total(total, x, y), generate


def add_product(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """A number or register plus the product of two, for the compiler's builder."""
    return builder.fadd(total, builder.fmul(x, y, flags=CONTRACTED), flags=CONTRACTED)


def subtract_product(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """A number or register minus the product of two, for the compiler's builder."""
    return builder.fsub(total, builder.fmul(x, y, flags=CONTRACTED), flags=CONTRACTED)
