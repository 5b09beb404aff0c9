"""How many threads PyTorch and the compiled kernels use for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_FOR_KERNELS: ContextVar[int | None] = ContextVar("_FOR_KERNELS", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch and kernels use one thread inside, and as many as before afterwards.

    Threads that share small operations wait for one another. On a machine that does other work as
    well they wait longer than the operations take.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def threads_for_kernels() -> Iterator[None]:
    """PyTorch uses one thread inside, and kernels as many as before.

    After each of its operations PyTorch's threads wait in a loop for the next one. They would take
    half of the processors from the kernel that follows.
    """
    token = _FOR_KERNELS.set(num_threads())
    try:
        with one_thread():
            yield
    finally:
        _FOR_KERNELS.reset(token)


def num_threads() -> int:
    """How many threads kernels may use."""
    return _FOR_KERNELS.get() or torch.get_num_threads()
