"""When and how progress is shown."""

from __future__ import annotations

import sys


def is_interactive() -> bool:
    """Whether somebody watches: standard error is a terminal, or the program a notebook.

    Example:
        >>> from pyro_expfam.progress import is_interactive
        >>> is_interactive() in (True, False)
        True
    """
    return _is_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _is_notebook() -> bool:
    """Whether the program runs in a Jupyter kernel, which has imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
