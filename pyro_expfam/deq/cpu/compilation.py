"""How functions are compiled."""

from __future__ import annotations

from typing import Any

import numba

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
INLINED: dict[str, Any] = {"forceinline": True, **OPTIONS}
IN_ANY_ORDER: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "reassoc"}}
"""For sums whose order is free, so that their terms go through vectors of the processor."""


def compiled_once(function: Any) -> Any:
    """Compiles a function and keeps the result on disk, where there is a place to write."""
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        return numba.njit(**OPTIONS)(function)
