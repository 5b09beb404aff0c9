"""Ctrl-C as a flag, for work that several processes must leave at the same place."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Within its ``with`` block the first Ctrl-C sets a flag, and the second interrupts as usual.

    Outside of the main thread, which alone may handle signals, Ctrl-C stays as it is.

    Attributes:
        pressed: whether Ctrl-C has been pressed.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _press(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.pressed = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
