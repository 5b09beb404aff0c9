"""The progress line of a fit: where it is, how quick, and about how long it still takes."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from pyro_expfam.joint import Sweep
from pyro_expfam.runtime.progress import progress_bar

LOOKS_BACK = 8
"""Sweeps whose decrements tell how quickly the fit comes to rest."""

START = "fit: finding a start (the first fit on a machine also compiles its kernels)"


class FitProgress:
    """A line with sweep, objective, seconds, seconds left, decrement, and rows a second.

    A narrow terminal cuts the line at its end, where the least is lost.

    The decrement falls by about the same factor in each sweep. The seconds left are those until it
    has fallen to the tolerance, at the pace of the last sweeps. They are a guess, since a fit may
    rest sooner or later, and are left out while the decrement does not fall.

    Args:
        progress: whether the line is drawn; None draws it in terminals and notebooks only.
        num_rows: rows of the table, or None to leave out rows a second.
        tol: the tolerance of the fit.
    """

    def __init__(self, progress: bool | None, num_rows: int | None, tol: float) -> None:
        self._line: Any = progress_bar(progress, bar_format="{desc}", desc=START)
        self._num_rows, self._tol = num_rows, tol
        self._last: deque[Sweep] = deque(maxlen=LOOKS_BACK)

    def __enter__(self) -> FitProgress:
        """The line, which stays after the fit."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the line."""
        self._line.close()

    def show(self, sweep: Sweep) -> None:
        """Shows a sweep, or that starts are compared, which have no objective in common."""
        is_of_starts = math.isinf(sweep.objective) and math.isinf(sweep.decrement)
        if is_of_starts:
            text = f"fit: comparing starts, {sweep.seconds:.1f} s"
        else:
            self._last.append(sweep)
            text = self.text()
        self._line.set_description_str(text, refresh=False)
        self._line.update()

    def text(self) -> str:
        """The line after the last sweep."""
        sweep = self._last[-1]
        parts = [
            f"fit: sweep {sweep.number}",
            f"objective {sweep.objective:,.2f}",
            f"{sweep.seconds:.1f} s",
        ]
        rate, left = self.rows_a_second(), self.seconds_left()
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        parts.append(f"decrement {sweep.decrement:.1e}")
        if rate is not None:
            parts.append(f"{rate:,.0f} rows/s")
        return ", ".join(parts)

    def rows_a_second(self) -> float | None:
        """Rows per second over the last sweeps, each of which reads the whole table."""
        first, last = self._last[0], self._last[-1]
        if self._num_rows is None or last.seconds <= first.seconds:
            return None
        return self._num_rows * (last.number - first.number) / (last.seconds - first.seconds)

    def seconds_left(self) -> float | None:
        """Seconds until the decrement has fallen to the tolerance, at the pace of late."""
        first, last = self._last[0], self._last[-1]
        wanted = self._tol * (1 + abs(last.objective))
        decrements = [first.decrement, last.decrement, wanted]
        if not all(0 < x < math.inf for x in decrements) or last.seconds <= first.seconds:
            return None
        pace = math.log(first.decrement / last.decrement) / (last.seconds - first.seconds)
        if pace <= 0:
            return None
        return max(0.0, math.log(last.decrement / wanted)) / pace


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else time.strftime("%H:%M:%S", time.gmtime(round(seconds)))
    )
