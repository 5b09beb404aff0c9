"""How many threads PyTorch uses for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread inside, and as many as before afterwards.

    Threads that share small operations wait for one another. On a machine that does other work as
    well they wait longer than the operations take.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
