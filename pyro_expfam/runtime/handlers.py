"""What Pyro's stack of handlers says of the run that is going on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger


def computes_loss() -> bool:
    """Whether a guide runs for a loss whose gradient is wanted, as under ``SVI``."""
    traced = any(isinstance(handler, TraceMessenger) for handler in _PYRO_STACK)
    return traced and torch.is_grad_enabled()


def replayed_traces() -> Iterator[Trace]:
    """The traces that this run of a model is replayed against, such as the trace of its guide."""
    for handler in _PYRO_STACK:
        if isinstance(handler, ReplayMessenger) and handler.trace is not None:
            yield handler.trace


def is_answered(site: str) -> bool:
    """Whether a handler has a value for a site of this run, such as a draw of a guide."""
    for handler in _PYRO_STACK:
        trace = handler.trace if isinstance(handler, ReplayMessenger) else None
        # Handlers of Pyro keep values as data, those of this package as values.
        known = [trace.nodes if trace is not None else None]
        known += [getattr(handler, name, None) for name in ("data", "values")]
        if any(isinstance(x, Mapping) and site in x for x in known):
            return True
    return False


def traces_of_run() -> Iterator[Trace]:
    """The traces that this run is recorded in."""
    for handler in _PYRO_STACK:
        if isinstance(handler, TraceMessenger):
            yield handler.trace


def plate_sizes() -> dict[int, int]:
    """The sizes of the active plates by dimension, plates of particles among them."""
    plates = [x for x in _PYRO_STACK if isinstance(x, IndepMessenger)]
    return {x.dim: getattr(x, "subsample_size", x.size) for x in plates if x.dim is not None}


@contextmanager
def no_handlers() -> Iterator[None]:
    """Runs without the handlers and plates that are active.

    A model can then be run while another run of it is within a plate.
    """
    stack, plates = list(_PYRO_STACK), list(_DIM_ALLOCATOR._stack)
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:] = stack
        _DIM_ALLOCATOR._stack[:] = plates
