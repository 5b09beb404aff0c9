"""How functions are compiled, and kept from one program to the next."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numba
from numba.core import types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
INLINED: dict[str, Any] = {"forceinline": True, **OPTIONS}
IN_ANY_ORDER: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "reassoc"}}
"""For sums whose order is free, so that their terms go through vectors of the processor."""


@intrinsic
def whole_registers(typing_context: Any) -> Any:
    """Lets loops of the calling function use the whole of registers of 512 bits.

    By default the compiler uses half of them, because the first processors that had them became
    slower. Where registers are shorter this does nothing.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # The builder knows the names of few attributes, and this is none of them.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


def compiled_once(function: Any) -> Any:
    """Compiles a function and keeps the result on disk, where there is a place to write.

    What is on disk saves time, and nothing depends on it: a file that cannot be read is dropped
    and compiled anew, and where nothing can be written, nothing is kept.
    """
    compiled = numba.njit(**OPTIONS)(function)
    # Numba says by a RuntimeError that it has no place to write.
    with suppress(OSError, RuntimeError):
        compiled._cache = ForgivingCache(compiled.py_func)
    return compiled


class ForgivingCache(FunctionCache):
    """Compiled code on disk, which may be damaged or impossible to write."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature, or None where there is none that can be used."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            # Half of a file gives errors of many kinds. Without an index it is written anew.
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps the code for a signature if that is possible."""
        with suppress(Exception):
            super().save_overload(sig, data)
