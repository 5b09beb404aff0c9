"""Which cases of a test are quick, and which are slow: the quick ones leave out no value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def slow_unless(quick: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """The values of one argument; the tests of those that are not quick are slow."""
    return [x if quick(x) else pytest.param(x, marks=pytest.mark.slow) for x in values]


def in_turn(*arguments: Sequence[Any]) -> list[Any]:
    """All combinations of the values of several arguments; most of them are slow.

    The quick ones go through all arguments at once, and again through the shorter of them: each
    value of each argument is in one at least.
    """
    turns = range(max(len(values) for values in arguments))
    quick = {tuple(turn % len(values) for values in arguments) for turn in turns}
    cases = []
    for places in itertools.product(*(range(len(values)) for values in arguments)):
        chosen = [values[k] for values, k in zip(arguments, places, strict=True)]
        marks = () if places in quick else pytest.mark.slow
        cases.append(pytest.param(*chosen, marks=marks, id="-".join(map(name_of, chosen))))
    return cases


def name_of(value: Any) -> str:
    """How a value is called in the name of a test: the same in every process."""
    name = getattr(value, "__name__", str(value))
    return type(value).__name__ if " at 0x" in name else name
