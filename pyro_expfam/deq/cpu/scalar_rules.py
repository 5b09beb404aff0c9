"""The laws of Fisher scoring and its line search for numbers of one row, compiled by Numba."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numba
import numpy as np

from pyro_expfam.deq import search_rules
from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.step_rules import StepRules, compiled_law

Rules = TypeVar("Rules", StepRules, SearchRules)


@numba.njit(**INLINED)
def _where(condition, chosen, other):
    return chosen if condition else other


NAMES = {
    "exp": math.exp,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "where": _where,
    "inf": math.inf,
}

RULES = compiled_law(numba.njit(**INLINED), NAMES)
SEARCH = compiled_law(numba.njit(**INLINED), NAMES, search_rules.LAW)

restarts = RULES["restarts"]
descends = RULES["descends"]
is_safe = RULES["is_safe"]
is_accepted = RULES["is_accepted"]
reach_after_step = RULES["reach_after_step"]
reach_after_failure = RULES["reach_after_failure"]
needs_change = RULES["needs_change"]
first_length = RULES["first_length"]
damped_length = RULES["damped_length"]
is_last = RULES["is_last"]
leaves = RULES["leaves"]
residual = RULES["residual"]

has_decreased = SEARCH["has_decreased"]
is_stalled = SEARCH["is_stalled"]
next_length = SEARCH["next_length"]
left_of_score = SEARCH["left_of_score"]
is_at_root = SEARCH["is_at_root"]
ends_search = SEARCH["ends_search"]
is_at_rest = SEARCH["is_at_rest"]


@lru_cache(maxsize=64)
def in_dtype(rules: Rules, dtype: np.dtype) -> Rules:
    """The rules with numbers of the format in which a kernel computes."""
    numbers = {name: dtype.type(x) for name, x in rules._asdict().items() if name != "max_iter"}
    return rules._replace(**numbers)
