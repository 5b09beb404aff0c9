"""Whether all entries of a table lie in a support, compiled by Numba."""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, compiled_once
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, in_threads, spans


def are_surely_inside(support: constraints.Constraint, y: Tensor) -> bool:
    """Whether a quick test finds all entries ``(N, d)`` in a support; False if there is none."""
    if support is constraints.boolean:
        work = partial(_are_boolean, y.numpy())
    elif support is constraints.nonnegative_integer:
        work = partial(_are_counts, y.numpy())
    else:
        return False
    return all(in_threads(work, spans(len(y), y.shape[1], ENTRIES_TO_READ)))


@compiled_once
def _are_boolean(y, begin, end):
    total = 0.0
    for s in range(begin, end):
        total += _count_others(y, s)
    return total == 0


@compiled_once
def _are_counts(y, begin, end):
    total = 0.0
    for s in range(begin, end):
        total += _count_no_counts(y, s)
    return total == 0


# In the format of the entries, so that a vector holds as many of them.
@numba.njit(**IN_ANY_ORDER)
def _count_others(y, s):
    one, nothing = y.dtype.type(1), y.dtype.type(0)
    total = nothing
    for i in range(y.shape[1]):
        # Both comparisons are True for NaN.
        total += one if (y[s, i] != 0) & (y[s, i] != 1) else nothing
    return total


@numba.njit(**IN_ANY_ORDER)
def _count_no_counts(y, s):
    one, nothing = y.dtype.type(1), y.dtype.type(0)
    total = nothing
    for i in range(y.shape[1]):
        # A comparison with NaN is False.
        is_count = (y[s, i] >= 0) & (y[s, i] < np.inf) & (np.floor(y[s, i]) == y[s, i])
        total += nothing if is_count else one
    return total
