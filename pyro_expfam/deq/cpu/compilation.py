"""How functions are compiled, and kept from one program to the next.

Python calls kernels, and kernels call their parts. A part is optimised and made machine code as a
piece of the kernels that call it. By itself it would be so once more for each level of calls: that
takes as long as the kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from numba.core import types
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from pyro_expfam.deq.cpu.code_fingerprint import code_fingerprint
from pyro_expfam.deq.cpu.one_compiler import one_at_a_time

OF_KERNELS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
"""For functions that Python calls."""


class _PartOfKernels(JITCodeLibrary):
    """The code of a function as its callers link it, without machine code of its own."""

    def _optimize_final_module(self) -> None:
        """Nothing: callers optimise it where they call it."""

    def _finalize_final_module(self) -> None:
        """Ends before the code goes to the engine that makes machine code."""
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """A function that refuses every call of Python's by a TypeError."""
        self._ensure_finalized()
        return _REFUSES

    @property
    def codegen(self) -> _WithoutEnvironments:
        """What there is of the engine: Python objects are for machine code alone."""
        return _WithoutEnvironments()


class _WithoutEnvironments:
    def set_env(self, name: str, environment: Any) -> None:
        """Nothing: kernels that come from disk do not have the environments of parts either."""


# Python's own call, of an object that cannot be called.
_REFUSES = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value or 0


class _CompilerOfParts(Compiler):
    def define_pipelines(self) -> Any:
        """The usual passes, into code without an engine."""
        engine = self.state.targetctx.codegen()
        self.state.library = _PartOfKernels(engine, self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


KNOWN_VERSIONS = (0, 60), (0, 68)
"""The first and the last version of Numba whose compiler is known to keep parts as they are here.
With any other one, parts are compiled as Numba does it, and first calls take longer."""


def _of_parts(version: tuple[int, ...]) -> dict[str, Any]:
    """The options of parts in a version of Numba."""
    first, last = KNOWN_VERSIONS
    if not first <= version[:2] <= last:
        return OF_KERNELS
    return {
        **OF_KERNELS,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
        "pipeline_class": _CompilerOfParts,
    }


OPTIONS: dict[str, Any] = _of_parts(numba.version_info[:2])
"""For functions that only compiled functions call."""

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


@intrinsic
def own_code(typing_context: Any) -> Any:
    """Keeps the calling function out of the code of its callers.

    A function with many callers is then optimised once in a kernel, rather than in each of them.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def compiled_once(function: Any) -> Any:
    """Compiles a function and keeps the result on disk, where there is a place to write.

    What is on disk saves time, and nothing depends on it: a file that cannot be read is dropped
    and compiled anew, and where nothing can be written, nothing is kept.
    """
    compiled = numba.njit(no_cfunc_wrapper=True, **OF_KERNELS)(function)
    # Numba says by a RuntimeError that it has no place to write.
    with suppress(OSError, RuntimeError):
        compiled._cache = ForgivingCache(compiled.py_func)
        compiled.compile = _compiled_by_one_process(compiled)
    return compiled


def _compiled_by_one_process(compiled: Any) -> Callable[[Any], Any]:
    """How a function with a place on disk is compiled for a signature, or found there."""
    compile_or_load, cache = compiled.compile, compiled._cache

    def compile_once(signature: Any) -> Any:
        # Threads of a process wait for the lock of Numba. Whoever has it asks for the file.
        with global_compiler_lock, one_at_a_time(cache.path_of_lock(signature)):
            return compile_or_load(signature)

    return compile_once


class ForgivingCache(FunctionCache):
    """Compiled code on disk, which may be damaged or impossible to write."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """What code on disk was compiled from; Numba's own key has the first function alone."""
        return *super()._index_key(sig, codegen), code_fingerprint(self._py_func)

    def path_of_lock(self, signature: Any) -> Path:
        """The file that a process locks while it compiles the function for a signature."""
        name = f"{self._impl.filename_base}.{self._py_func.__name__}.{signature}"
        return Path(self.cache_path) / f"{sha256(name.encode()).hexdigest()[:20]}.lock"

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
