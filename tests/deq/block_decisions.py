"""The law of Fisher scoring, evaluated by a kernel of Triton on a block of rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.cuda.block_rules import RULES, SEARCH
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.step_rules import StepRules

LAW = RULES | SEARCH

ROWS = 4


def decide(
    decision: str, numbers: list[float | int], rules: StepRules | SearchRules | None
) -> Tensor:
    """What each of four rows with the same numbers decides."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes = [None if isinstance(x, int) else torch.float32 for x in numbers]
    columns = [
        torch.full((ROWS,), x, dtype=dtype, device=device)
        for x, dtype in zip(numbers, dtypes, strict=True)
    ]
    unused = columns[:1] * (5 - len(columns))
    out = torch.empty(ROWS, device=device)
    decision_kernel[(1,)](
        *columns, *unused, rules, out, LAW[decision], len(columns), rules is not None
    )
    return out


@triton.jit
def decision_kernel(
    first,
    second,
    third,
    fourth,
    fifth,
    rules,
    out,
    DECIDE: tl.constexpr,
    COUNT: tl.constexpr,
    RULED: tl.constexpr,
):
    """Loads what the decision is made from, and stores it as a number."""
    place = tl.arange(0, 4)
    a, b = tl.load(first + place), tl.load(second + place)
    c, d, e = tl.load(third + place), tl.load(fourth + place), tl.load(fifth + place)
    if COUNT == 1:
        decided = DECIDE(a, rules) if RULED else DECIDE(a)
    elif COUNT == 2:
        decided = DECIDE(a, b, rules) if RULED else DECIDE(a, b)
    elif COUNT == 3:
        decided = DECIDE(a, b, c, rules)
    elif COUNT == 4:
        decided = DECIDE(a, b, c, d, rules)
    else:
        decided = DECIDE(a, b, c, d, e, rules)
    tl.store(out + place, decided.to(tl.float32))
