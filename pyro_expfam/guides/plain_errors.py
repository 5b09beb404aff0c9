"""Errors of a block as it raises them, without the shapes that Pyro adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyro_expfam.models import ExpFamPCA


@contextmanager
def plain_errors(model: object) -> Iterator[None]:
    """Runs a model whose errors, if it is a block alone, keep their own message.

    A trace of Pyro adds the shapes of all sites to an error. They help to find the site of a
    larger model that is wrong, and say nothing about an argument of a block.

    Args:
        model: the model that runs.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        plain = _before_shapes(error)
        if plain is error or not isinstance(model, ExpFamPCA):
            raise
        raise plain from plain.__cause__


def _before_shapes(error: BaseException) -> BaseException:
    """The error that a trace, or traces inside of one another, have added shapes to."""
    cause = error.__cause__
    while type(cause) is type(error) and str(error).startswith(f"{cause}\n"):
        error, cause = cause, cause.__cause__
    return error
