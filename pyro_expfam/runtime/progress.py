"""Progress bars, shown where a person is likely to watch."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(progress: bool | None, **settings: Any) -> Any:
    """A bar of :mod:`tqdm`, in the form that a notebook or a terminal can draw.

    Args:
        progress: whether the bar is drawn; None draws it in terminals and notebooks only, so that
            logs and test reports stay free of it.
        settings: for :class:`tqdm.tqdm`, such as ``total``, ``desc`` and ``unit``.

    Raises:
        TypeError: if ``progress`` is something else.
    """
    check_progress(progress)
    # Imported here, since most programs that import the package never draw a bar.
    from tqdm.auto import tqdm

    drawn = is_watched() if progress is None else progress
    return tqdm(disable=not drawn, **settings)


def check_progress(progress: bool | None) -> None:
    """Raises an error unless this says whether a bar is drawn."""
    if progress not in (None, True, False):
        raise TypeError(f"progress must be True, False or None, got {progress!r}")


def is_watched() -> bool:
    """Whether output goes to a terminal, or to a notebook or console of IPython."""
    # A notebook has loaded IPython itself, so that it need not be imported here.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None or (sys.stderr is not None and sys.stderr.isatty())


def tell(text: str) -> None:
    """Prints what was decided for the user to the standard error, where a person watches.

    Logs, tests and the folds of a search stay free of it: each text is printed once.
    """
    if text not in _TOLD and is_watched():
        _TOLD.add(text)
        print(text, file=sys.stderr)


_TOLD: set[str] = set()
"""What has been printed."""
