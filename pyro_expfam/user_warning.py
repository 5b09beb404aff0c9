"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

INSIDE = frozenset({"contextlib", "functools", "pyro", "pyro_expfam", "torch"})
"""The packages between a user's line and the code that warns."""


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the first frame outside of the package and of the libraries that call it.

    A warning then names the line that the user wrote, whatever decorators and handlers lie between,
    and Python's filters by module work.

    Args:
        message: the warning.
        category: its class.
    """
    stacklevel, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in INSIDE:
        stacklevel, frame = stacklevel + 1, frame.f_back
    warnings.warn(message, category, stacklevel=stacklevel)


def _package(module: dict[str, object]) -> str:
    return str(module.get("__name__", "")).partition(".")[0]
