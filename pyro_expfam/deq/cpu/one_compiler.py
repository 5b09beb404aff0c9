"""One of several processes compiles a kernel, and the others wait for what it keeps on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # On Windows each process compiles for itself.
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 60.0
"""Seconds after which a process no longer waits: whoever compiles may have been stopped."""

PAUSE = 0.02
"""Seconds between two looks at a lock."""


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process is here with the same path, a minute at most.

    Nothing depends on it but time: where no file can be locked, nobody waits.
    """
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            # Who waits for a file that is gone goes on as if it were locked.
            with suppress(OSError):
                path.unlink()
            file.close()


def _locked(path: Path) -> Any:
    """The open file, locked if that was possible in time, or nothing."""
    if fcntl is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:
        return None
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(PAUSE)
        except OSError:
            break
    file.close()
    return None
