"""Runs of a model in which the tables of blocks are known, and need not be looked at.

A guide differentiates the log density of the other sites of a model in the latents of its blocks.
For each evaluation it runs the model. A block whose table is a part of the layer's problem then
only passes its latents on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_UNWANTED: ContextVar[bool] = ContextVar("likelihoods_unwanted", default=False)

_SEEN: ContextVar[Collection[object] | None] = ContextVar("blocks_seen", default=None)


@contextmanager
def only_blocks(blocks: Collection[object]) -> Iterator[None]:
    """Within this context only the given blocks look at their tables."""
    token = _SEEN.set(blocks)
    try:
        yield
    finally:
        _SEEN.reset(token)


@contextmanager
def likelihoods_unwanted() -> Iterator[None]:
    """Within this context nobody asks for the law of a table given its latents."""
    token = _UNWANTED.set(True)
    try:
        yield
    finally:
        _UNWANTED.reset(token)


def wants_likelihoods() -> bool:
    """Whether a block has to compute the law of its table in this run."""
    return not _UNWANTED.get()


def is_known(block: object) -> bool:
    """Whether the table of a block is known in this run."""
    seen = _SEEN.get()
    return seen is not None and all(other is not block for other in seen)
