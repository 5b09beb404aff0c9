"""Checks of sizes, tolerances and other limits of a computation."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex


def check_size(name: str, size: SupportsIndex | None) -> int:
    """A size as an ``int``; raises an error unless it is a whole number of at least 1."""
    try:
        number = 0 if size is None or isinstance(size, bool) else operator.index(size)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
    return number


def check_positive(name: str, value: Any) -> float:
    """A number as a ``float``; raises an error unless it is positive and finite."""
    try:
        number = 0.0 if isinstance(value, bool | str) else float(value)
    except (RuntimeError, TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    return number
