"""The laws of Fisher scoring and of its line search for a block of rows, compiled by Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from pyro_expfam.deq import search_rules
from pyro_expfam.deq.step_rules import compiled_law

# Triton's interpreter replaces the functions of `tl` while a kernel runs, so that they have to be
# looked up then.


@triton.jit
def _exp(x):
    return tl.exp(x)


@triton.jit
def _log1p(x):
    # Small changes are never damped, and lose no digits here.
    return tl.log(1 + x)


@triton.jit
def _sqrt(x):
    return tl.sqrt(x)


@triton.jit
def _where(condition, chosen, other):
    return tl.where(condition, chosen, other)


NAMES = {
    "exp": _exp,
    "log1p": _log1p,
    "sqrt": _sqrt,
    "where": _where,
    "inf": tl.constexpr(float("inf")),
    "tl": tl,
}

RULES = compiled_law(triton.jit, NAMES)
SEARCH = compiled_law(triton.jit, NAMES, search_rules.LAW)

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

has_decreased = SEARCH["has_decreased"]
is_stalled = SEARCH["is_stalled"]
next_length = SEARCH["next_length"]
left_of_score = SEARCH["left_of_score"]
is_at_root = SEARCH["is_at_root"]
ends_search = SEARCH["ends_search"]
is_at_rest = SEARCH["is_at_rest"]
