"""Reading ahead: a worker thread reads what comes next while this is computed with."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

AHEAD = 1
"""Items that wait to be taken, beside the one that is being read."""

LOOK_UP = 0.1
"""Seconds after which the worker looks whether anybody still waits."""


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in order, the next one read by a thread in the meantime.

    An error of the thread is raised here. When the iteration ends early, so does the thread.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(AHEAD)
    is_over = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not is_over.is_set():
            try:
                waiting.put((kind, value), timeout=LOOK_UP)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=work, name="pyro_expfam-read-ahead", daemon=True).start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
            del value
    finally:
        is_over.set()
