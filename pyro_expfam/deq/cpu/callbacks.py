"""Compiled functions that other compiled functions call by their address.

A function that is called by its name is compiled once more into each of its callers. One that is
called by its address is compiled once, and only where it is needed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.compilation import OF_KERNELS, ForgivingCache

NUMBERS = types.CPointer(types.float64)  # type: ignore[attr-defined]


def address_of(function: Any, num_arrays: int) -> int:
    """The address of a function of the numbers of some arrays, which is kept on disk.

    Args:
        function: a function that takes pointers to float64, then a count, and returns nothing.
        num_arrays: how many pointers it takes.
    """
    signature = types.void(*[NUMBERS] * num_arrays, types.intp)
    options = {name: value for name, value in OF_KERNELS.items() if name != "nogil"}
    compiled: Any = CFunc(function, (signature.args, signature.return_type), {}, options)
    # Numba says by a RuntimeError that it has no place to write.
    with suppress(OSError, RuntimeError):
        compiled._cache = ForgivingCache(function)
    compiled.compile()
    return int(compiled.address)


@intrinsic
def call(
    typing_context: Any, address: Any, first: Any, second: Any, third: Any, fourth: Any, count: Any
) -> Any:
    """Calls a function at an address with the numbers of four arrays and a count."""
    arrays = (first, second, third, fourth)
    signature = types.void(types.intp, *arrays, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, *given, count = arguments
        pointers = [
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip(signature.args[1:-1], given, strict=True)
        ]
        kind = ir.FunctionType(ir.VoidType(), [*(x.type for x in pointers), count.type])
        function = builder.inttoptr(address, kind.as_pointer())
        builder.call(function, [*pointers, count])
        return context.get_dummy_value()

    return signature, generate
