"""What the machine code of a kernel depends on: its code, its parts, and their constants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

PACKAGE = __name__.partition(".")[0]

CONSTANTS = (bool, int, float, complex, str, bytes, np.generic, type(None))


@cache
def code_fingerprint(function: FunctionType) -> str:
    """A hash of a function, of every function that it calls, and of the constants of all of them.

    Numba keeps machine code by the file and the bytecode of the function that Python calls. It
    does not look at the functions and numbers from other files that are part of this machine code.

    Args:
        function: the function before it is compiled.
    """
    found = sha256()
    seen: set[int] = set()
    for piece in _pieces(function, seen):
        found.update(piece)
    return found.hexdigest()


def _pieces(value: Any, seen: set[int]) -> Iterator[bytes]:
    """The bytes of a value that compiled code refers to. A function comes once."""
    function = _plain(value)
    if isinstance(value, CONSTANTS):
        yield f"{type(value).__name__} {value!r};".encode()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    elif isinstance(value, tuple):
        yield b"("
        for item in value:
            yield from _pieces(item, seen)
        yield b")"
    elif function is not None and id(function) not in seen:
        seen.add(id(function))
        yield from _pieces_of_function(function, seen)


def _plain(value: Any) -> FunctionType | None:
    """The Python function of a compiled function or of an intrinsic."""
    for function in (value, getattr(value, "py_func", None), getattr(value, "_defn", None)):
        if isinstance(function, FunctionType):
            return function
    return None


def _pieces_of_function(function: FunctionType, seen: set[int]) -> Iterator[bytes]:
    """Its bytecode, and what its names stand for."""
    for cell in function.__closure__ or ():
        yield from _pieces(cell.cell_contents, seen)
    for code in _codes(function.__code__):
        yield code.co_code
        constants = tuple(x for x in code.co_consts if not isinstance(x, CodeType))
        yield from _pieces(constants, seen)
        for name in code.co_names:
            yield name.encode() + b"="
            value = function.__globals__.get(name)
            yield from _pieces(value, seen)
            if isinstance(value, ModuleType) and value.__name__.startswith(PACKAGE):
                for attribute in code.co_names:
                    yield from _pieces(getattr(value, attribute, None), seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of what is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
