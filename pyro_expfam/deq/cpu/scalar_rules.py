"""The law of Fisher scoring for the numbers of one row, compiled by Numba."""

from __future__ import annotations

import math

import numba

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.step_rules import compiled_law


@numba.njit(**INLINED)
def _where(condition, chosen, other):
    return chosen if condition else other


RULES = compiled_law(
    numba.njit(**INLINED),
    {"exp": math.exp, "log1p": math.log1p, "sqrt": math.sqrt, "where": _where, "inf": math.inf},
)

restarts = RULES["restarts"]
descends = RULES["descends"]
is_accepted = RULES["is_accepted"]
reach_after_step = RULES["reach_after_step"]
reach_after_failure = RULES["reach_after_failure"]
needs_change = RULES["needs_change"]
first_length = RULES["first_length"]
damped_length = RULES["damped_length"]
is_last = RULES["is_last"]
leaves = RULES["leaves"]
residual = RULES["residual"]
