"""Functions that ``torch.compile`` leaves as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def uncompiled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function, with one break of the graph where a program that is compiled calls it.

    A solver stops by the numbers that it finds, and runs kernels that are compiled already. Without
    this break, ``torch.compile`` would break at each of these places, with a warning.
    """

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            # Not as a decorator: it imports the compiler, which takes more than a second.
            outside = torch.compiler.disable(function)
            result: _Result = outside(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call
