"""Errors of this package as it has raised them, without what Pyro adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = __name__.partition(".")[0]

SHAPES = "Trace Shapes:"
"""How the text begins that Pyro adds to an error inside of a trace: the shapes of all sites."""


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises errors of this package with their own message alone.

    Pyro adds the shapes of all sites to an error inside of a trace. They help with errors of the
    user's model, and say nothing about an error that names an argument.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        own = _without_shapes(error)
        if own is error:
            raise
        # The error of Pyro says the same with more words.
        raise own from own.__cause__


def _without_shapes(error: BaseException) -> BaseException:
    """The error of this package that Pyro has added shapes to, or the error itself."""
    first = error
    while first.__cause__ is not None and str(first).startswith(f"{first.__cause__}\n"):
        if SHAPES not in str(first).removeprefix(str(first.__cause__)):
            break
        first = first.__cause__
    return first if first is not error and _is_of_package(first) else error


def _is_of_package(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")
