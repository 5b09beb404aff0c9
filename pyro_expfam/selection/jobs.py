"""Independent fits, one after another or in several processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from pyro_expfam.runtime.torch_threads import one_thread
from pyro_expfam.user_warning import warn_user

_Result = TypeVar("_Result")

Job = Callable[[Callable[[], object]], _Result]
"""What is to be done, given a function that it calls after every fit."""


def check_jobs(n_jobs: int | None) -> int | None:
    """A checked number of processes.

    Raises:
        ValueError: if it is 0, or no whole number.
    """
    is_whole = isinstance(n_jobs, int) and not isinstance(n_jobs, bool)
    if n_jobs is None or (is_whole and n_jobs != 0):
        return n_jobs
    raise ValueError(
        "n_jobs must be a number of processes, -1 for one per processor, or None for this process, "
        f"got {n_jobs!r}"
    )


def run_jobs(
    jobs: Sequence[Job[_Result]],
    n_jobs: int | None,
    fits_per_job: int,
    report: Callable[[], object],
) -> Iterator[_Result]:
    """The results of jobs, in their order.

    With a number of processes every job has one thread, whatever the number is. Sums then run in
    the same order, and the results are the same.

    Args:
        jobs: functions that can be pickled.
        n_jobs: the number of processes, None for this process with all of its threads.
        fits_per_job: how often a job calls what it is given.
        report: called after every fit, or as often after every job of another process.
    """
    if n_jobs is None:
        for job in jobs:
            yield job(report)
        return
    from joblib import Parallel, delayed

    tasks = (delayed(_alone)(job) for job in jobs)
    for result, seen in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
        for message, category in seen:
            warn_user(message, category)
        for _ in range(fits_per_job):
            report()
        yield result


def _alone(job: Job[_Result]) -> tuple[_Result, list[tuple[str, Any]]]:
    """The result of a job in one thread, and what it warned of."""
    with one_thread(), warnings.catch_warnings(record=True) as seen, torch.random.fork_rng():
        torch.manual_seed(0)
        result = job(_nothing)
    return result, [(str(x.message), x.category) for x in seen]


def _nothing() -> None:
    """The report of a job in another process."""
