"""Ctrl-C as a flag, for work that several processes must leave at the same place."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

SOON = 1.0
"""Seconds in which a second signal is the same Ctrl-C: a terminal sends one to every process, and
``torchrun`` sends it on to its own."""


class Interrupts:
    """Within its ``with`` block the first Ctrl-C sets a flag, and the second interrupts as usual.

    Outside of the main thread, which alone may handle signals, Ctrl-C stays as it is.

    Attributes:
        pressed: whether Ctrl-C has been pressed.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None
        self._since = 0.0

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
        del frame
        now = time.monotonic()
        if not self.pressed:
            self.pressed, self._since = True, now
        elif now - self._since > SOON:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
