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


ABREAST = 4
"""Registers that are handled as one where an operation has to wait for the one before: the
processor computes with the others meanwhile."""


class Register(types.Type):
    """The type of a register, or of several abreast, in compiled functions.

    Attributes:
        dtype: the type of its numbers.
        count: the number of registers.
    """

    def __init__(self, dtype: Any, count: int = 1) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Register({dtype}, {count * BYTES})")


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Register) -> None:
        number = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, register_of(number, kind.count))


def register_of(number: Any, count: int = 1) -> Any:
    """The type of so many registers of numbers, for the compiler's builder."""
    return ir.VectorType(number, count * BYTES // {"float": 4, "double": 8}[str(number)])


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


def _load(count: int) -> Any:
    @intrinsic
    def load_registers(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
        """The numbers of a row of an array from a column on, for compiled functions."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(signature.return_type)
            array, row, column = arguments
            pointer = place(context, builder, signature.args[0], array, row, column, kind)
            return builder.load(pointer, align=_alignment(signature.args[0]))

        return Register(array.dtype, count)(array, row, column), generate

    return load_registers


load, load_abreast = _load(1), _load(ABREAST)


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


def _constant(count: int) -> Any:
    @intrinsic
    def spread_over_registers(typing_context: Any, number: Any) -> Any:
        """A number in all lanes of registers, for compiled functions."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(signature.return_type)
            return _spread(builder, arguments[0], kind)

        return Register(number, count)(number), generate

    return spread_over_registers


everywhere, everywhere_abreast = _constant(1), _constant(ABREAST)


@intrinsic
def chosen(typing_context: Any, flags: Any, first: Any, x: Any, y: Any) -> Any:
    """Lanes of ``x`` where flags from ``first`` on are True, others of ``y``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flags, first, x, y = arguments
        kind = ir.VectorType(ir.IntType(8), x.type.count)
        data = context.make_array(signature.args[0])(context, builder, flags).data
        pointer = builder.bitcast(builder.gep(data, [first]), kind.as_pointer())
        found = builder.load(pointer, align=1)
        zero = ir.Constant(kind, [ir.Constant(ir.IntType(8), 0)] * x.type.count)
        return builder.select(builder.icmp_unsigned("!=", found, zero), x, y)

    return x(flags, first, x, y), generate


@intrinsic
def minus(typing_context: Any, x: Any, y: Any) -> Any:
    """The difference of two registers, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments)

    return x(x, y), generate


@intrinsic
def plus_product(typing_context: Any, total: Any, x: Any, y: Any) -> Any:
    """A register plus the product of two, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return add_product(builder, *arguments)

    return total(total, x, y), generate


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


@intrinsic
def reciprocal_root(typing_context: Any, x: Any) -> Any:
    """One over the square root of a register, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (x,) = arguments
        bits = {"float": 32, "double": 64}[str(x.type.element)]
        root = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(x.type, [x.type]),
            f"llvm.sqrt.v{x.type.count}f{bits}",
        )
        return builder.fdiv(_everywhere(x.type, 1.0), builder.call(root, [x]))

    return x(x), generate


@intrinsic
def keep_resolved(
    typing_context: Any, flags: Any, first: Any, pivot: Any, diagonal: Any, smallest: Any
) -> Any:
    """Makes flags of lanes from ``first`` on False where a pivot is too small.

    A pivot must be positive, and no less than ``smallest`` times a finite diagonal entry. NaN is
    neither.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flags, first, pivot, diagonal, smallest = arguments
        kind = ir.VectorType(ir.IntType(8), pivot.type.count)
        data = context.make_array(signature.args[0])(context, builder, flags).data
        place = builder.bitcast(builder.gep(data, [first]), kind.as_pointer())
        least = builder.fmul(_spread(builder, smallest, pivot.type), diagonal)
        infinite = _everywhere(pivot.type, float("inf"))
        good = builder.and_(
            builder.fcmp_ordered(">", pivot, _everywhere(pivot.type, 0.0)),
            builder.and_(
                builder.fcmp_ordered(">=", pivot, least),
                builder.fcmp_ordered("<", diagonal, infinite),
            ),
        )
        before = builder.load(place, align=1)
        builder.store(builder.and_(before, builder.zext(good, kind)), place, align=1)
        return context.get_dummy_value()

    return types.void(flags, first, pivot, diagonal, smallest), generate


@intrinsic
def larger_size(typing_context: Any, x: Any, y: Any) -> Any:
    """The larger absolute value of each lane, NaN if one is NaN, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = arguments
        # Unlike floats, their bits have a maximum that is one operation.
        one, other = _size_bits(builder, x), _size_bits(builder, y)
        largest = builder.select(builder.icmp_unsigned(">", one, other), one, other)
        return builder.bitcast(largest, x.type)

    return x(x, y), generate


@intrinsic
def largest_lane(typing_context: Any, x: Any) -> Any:
    """The largest absolute value of all lanes, NaN if one is NaN, for compiled functions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = _size_bits(builder, arguments[0])
        kind = bits.type
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind.element, [kind]),
            f"llvm.vector.reduce.umax.v{kind.count}i{kind.element.width}",
        )
        return builder.bitcast(builder.call(reduce, [bits]), arguments[0].type.element)

    return x.dtype(x), generate


def _size_bits(builder: Any, x: Any) -> Any:
    """The bits of a register without signs, for the compiler's builder."""
    width = {"float": 32, "double": 64}[str(x.type.element)]
    kind = ir.VectorType(ir.IntType(width), x.type.count)
    unsigned = ir.Constant(kind, [ir.Constant(kind.element, (1 << (width - 1)) - 1)] * kind.count)
    return builder.and_(builder.bitcast(x, kind), unsigned)


def _everywhere(register: Any, number: float) -> Any:
    """A constant in all lanes, for the compiler's builder."""
    return ir.Constant(register, [ir.Constant(register.element, number)] * register.count)


def _spread(builder: Any, number: Any, register: Any) -> Any:
    """A number in all lanes, for the compiler's builder."""
    nothing = ir.Constant(register, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), register.count), None)
    return builder.shuffle_vector(first, nothing, lanes)


def add_product(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """A number or register plus the product of two, for the compiler's builder."""
    return builder.fadd(total, builder.fmul(x, y, flags=CONTRACTED), flags=CONTRACTED)


def subtract_product(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """A number or register minus the product of two, for the compiler's builder."""
    return builder.fsub(total, builder.fmul(x, y, flags=CONTRACTED), flags=CONTRACTED)
