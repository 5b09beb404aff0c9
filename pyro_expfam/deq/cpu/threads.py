"""Rows shared between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from pyro_expfam.runtime.torch_threads import num_threads

ENTRIES_TO_SOLVE, ENTRIES_TO_READ = 1 << 17, 1 << 20
"""Entries of rows x features that are worth one more thread: for work that evaluates them again and
again, and for work that does little more than read them."""


def spans(num_rows: int, num_features: int, worth_a_thread: int) -> list[tuple[int, int]]:
    """Spans of rows, one per thread: as many as PyTorch may use and the work is worth."""
    worth = 1 + num_rows * num_features // worth_a_thread
    num_spans = min(num_threads(), worth)
    return list(pairwise(num_rows * k // num_spans for k in range(num_spans + 1)))


def in_threads(work: Callable[[int, int], Any], rows: list[tuple[int, int]]) -> list[Any]:
    """Does the work on all spans at the same time and returns the result of each span.

    Raises:
        BaseException: the first exception that the work raised on any span.
    """
    if len(rows) == 1:
        return [work(*rows[0])]
    found: list[Any] = [None] * len(rows)
    failures: list[BaseException] = []

    def run(place: int) -> None:
        try:
            found[place] = work(*rows[place])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(1, len(rows))]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return found
