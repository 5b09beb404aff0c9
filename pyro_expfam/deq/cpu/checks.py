"""Whether all entries of a table lie in a support, compiled by Numba."""

from __future__ import annotations

from functools import partial
from typing import Any

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
        work = partial(_are_counts, y.numpy(), *_range(y, 0, np.inf))
    elif isinstance(support, constraints.integer_interval) and _has_numbers(support):
        work = partial(_are_counts, y.numpy(), *_range(y, support.lower_bound, support.upper_bound))
    elif support is constraints.positive or support is constraints.real:
        low = 0 if support is constraints.positive else -np.inf
        work = partial(_are_above, y.numpy(), y.numpy().dtype.type(low))
    else:
        return False
    return all(in_threads(work, spans(len(y), y.shape[1], ENTRIES_TO_READ)))


def _has_numbers(support: Any) -> bool:
    # Bounds may also be tensors, with one number per entry.
    bounds = (support.lower_bound, support.upper_bound)
    return all(isinstance(bound, int | float) for bound in bounds)


def _range(y: Tensor, low: float, high: float) -> tuple[Any, Any]:
    number = y.numpy().dtype.type
    return number(low), number(high)


@compiled_once
def _are_boolean(y, begin, end):
    total = 0.0
    for s in range(begin, end):
        total += _count_others(y, s)
    return total == 0


@compiled_once
def _are_counts(y, low, high, begin, end):
    total = 0.0
    for s in range(begin, end):
        total += _count_no_counts(y, low, high, s)
    return total == 0


@compiled_once
def _are_above(y, low, begin, end):
    total = 0.0
    for s in range(begin, end):
        total += _count_not_above(y, low, s)
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
def _count_no_counts(y, low, high, s):
    one, nothing = y.dtype.type(1), y.dtype.type(0)
    total = nothing
    for i in range(y.shape[1]):
        # A comparison with NaN is False.
        is_count = (y[s, i] >= low) & (y[s, i] <= high) & (y[s, i] < np.inf)
        is_count &= np.floor(y[s, i]) == y[s, i]
        total += nothing if is_count else one
    return total


@numba.njit(**IN_ANY_ORDER)
def _count_not_above(y, low, s):
    one, nothing = y.dtype.type(1), y.dtype.type(0)
    total = nothing
    for i in range(y.shape[1]):
        # A comparison with NaN is False.
        total += nothing if (y[s, i] > low) & (y[s, i] < np.inf) else one
    return total
