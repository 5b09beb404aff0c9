"""Timing competitors in turns."""

from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep
from typing import TypeVar

Result = TypeVar("Result")

REST = 0.02
"""Seconds."""


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of one run, and its result."""
    begin = perf_counter()
    result = work()
    return perf_counter() - begin, result


def median_seconds_in_turns(
    works: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median seconds of each work by name: one run of each, ``repeats`` times over.

    Taking turns spreads whatever else the machine does over all of them. A first round, which
    pays for warming up, does not count. Before each run there is a rest: the threads of the one
    before wait for more work for some milliseconds, before they sleep.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            sleep(REST)
            seconds[name].append(timed(work)[0])
    return {name: median(runs) for name, runs in seconds.items()}
