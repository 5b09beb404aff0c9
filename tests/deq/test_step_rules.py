"""PyTorch, Numba and Triton decide alike, by one table of states and decisions."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from quick_cases import in_turn
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, search_rules, step_rules
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.step_rules import StepRules

INF, NAN = math.inf, math.nan
UNBOUNDED = StepRules.of(1e-6, torch.float32, 10)
RULES = UNBOUNDED.for_variance(bounded=True)
FROM_GRID = RULES._replace(far=0.7)
SEARCH = SearchRules.of(1e-6, 10)._replace(patience=5, rounded=1e-5)


class Case(NamedTuple):
    """A decision of the law.

    Attributes:
        decision: the function that decides.
        numbers: what it decides from.
        rules: the rules, or None where it needs none.
        expected: what it decides.
    """

    decision: str
    numbers: tuple[Any, ...]
    rules: StepRules | SearchRules | None
    expected: Any


TABLE = [
    # square, resolved
    Case("restarts", (0.25, True), FROM_GRID, False),
    Case("restarts", (1.0, True), FROM_GRID, True),
    Case("restarts", (0.25, False), FROM_GRID, True),
    Case("restarts", (NAN, True), FROM_GRID, True),
    Case("restarts", (1e9, False), RULES, False),
    # agreement
    Case("descends", (2.0,), None, True),
    Case("descends", (0.0,), None, True),
    Case("descends", (-1e-9,), None, False),
    Case("descends", (NAN,), None, False),
    # square, length
    Case("is_safe", (0.09, 1.0), RULES, True),
    Case("is_safe", (9.0, 0.1), RULES, True),
    Case("is_safe", (0.16, 1.0), RULES, False),
    Case("is_safe", (INF, 1.0), RULES, False),
    Case("is_safe", (NAN, 1.0), RULES, False),
    # agreement, length, change, decrement
    Case("is_accepted", (1.0, 1.0, 50.0, 1.0), RULES, True),
    Case("is_accepted", (-1.0, 1.0, 0.3, 1.0), RULES, True),
    Case("is_accepted", (-1.0, 0.1, 3.0, 1.0), RULES, True),
    Case("is_accepted", (-0.1, 1.0, 1.0, 1.0), RULES, True),
    Case("is_accepted", (-0.2, 1.0, 1.0, 1.0), RULES, False),
    Case("is_accepted", (-0.2, 1.0, 1.0, 2.0), RULES, True),
    Case("is_accepted", (-0.05, 1.0, 50.0, 1.0), RULES, False),
    Case("is_accepted", (NAN, 1.0, 50.0, 1.0), RULES, False),
    Case("is_accepted", (NAN, 1.0, NAN, NAN), RULES, False),
    # reach, length
    Case("reach_after_step", (INF, 1.0), None, INF),
    Case("reach_after_step", (INF, 0.3), None, INF),
    Case("reach_after_step", (1.0, 0.3), None, 2.0),
    Case("reach_after_step", (0.25, 0.01), None, 0.5),
    Case("reach_after_step", (8.0, 1.0), None, INF),
    Case("reach_after_failure", (INF, 1.0), None, 1.0),
    Case("reach_after_failure", (8.0, 1.0), None, 1.0),
    Case("reach_after_failure", (8.0, 0.3), None, 1.0),
    Case("reach_after_failure", (1.0, 0.3), None, 0.5),
    Case("reach_after_failure", (0.5, 0.3), None, 0.25),
    # A first step of a family of unbounded variance was the damped one.
    Case("reach_after_failure", (INF, 0.3), None, 0.5),
    # square, reach
    Case("needs_change", (1e9, INF), RULES, False),
    Case("needs_change", (6.2, 2.0), RULES, False),
    Case("needs_change", (6.3, 2.0), RULES, True),
    Case("needs_change", (0.1, 1.0), RULES, True),
    Case("needs_change", (3.9, INF), UNBOUNDED, False),
    Case("needs_change", (4.1, INF), UNBOUNDED, True),
    Case("needs_change", (NAN, INF), UNBOUNDED, False),
    # change, reach
    Case("first_length", (100.0, INF), RULES, 1.0),
    Case("first_length", (100.0, INF), UNBOUNDED, math.log1p(100) / 100),
    Case("first_length", (1.9, INF), UNBOUNDED, 1.0),
    Case("first_length", (100.0, 4.0), RULES, 4 * math.log1p(100) / 100),
    Case("first_length", (100.0, 4.0), UNBOUNDED, 4 * math.log1p(100) / 100),
    Case("first_length", (2.0, 4.0), RULES, 1.0),
    Case("first_length", (0.0, 4.0), RULES, 1.0),
    Case("damped_length", (2.0, 1.0), None, math.log1p(2) / 2),
    Case("damped_length", (2.0, 0.5), None, math.log1p(2) / 4),
    # decrement, square, length, resolved
    Case("is_last", (1e-6, 1e-6, 1.0, True), RULES, True),
    Case("is_last", (1e-6, 1e-5, 1.0, True), RULES, False),
    Case("is_last", (1e-6, 1e-6, 0.5, True), RULES, False),
    Case("is_last", (1e-6, 1e-6, 1.0, False), RULES, False),
    Case("is_last", (0.0, 0.12, 1.0, True), RULES, True),
    Case("is_last", (0.0, 0.13, 1.0, True), RULES, False),
    Case("is_last", (NAN, NAN, 1.0, True), RULES, False),
    # last, resolved, evaluations
    Case("leaves", (False, True, 9), RULES, False),
    Case("leaves", (True, True, 1), RULES, True),
    Case("leaves", (False, False, 1), RULES, True),
    Case("leaves", (False, True, 10), RULES, True),
    # decrement, square, last
    Case("residual", (4.0, 0.25, False), RULES, 2.0),
    Case("residual", (4.0, 0.25, True), RULES, 0.71),
    Case("residual", (-1e-9, 0.25, False), RULES, 0.0),
    Case("residual", (NAN, 0.25, False), RULES, NAN),
    # change
    Case("curvature_share", (0.0,), None, 0.5),
    Case("curvature_share", (2.0,), None, (1 - 3 * math.exp(-2)) / 4),
    Case("curvature_share", (INF,), None, NAN),
    # objective, there, length, decrement, agreement
    Case("has_decreased", (1.0, 0.5, 1.0, 1.0, 0.0), SEARCH, True),
    Case("has_decreased", (1.0, 0.9995, 1.0, 4.0, -9.0), SEARCH, True),
    Case("has_decreased", (1.0, 0.9997, 1.0, 4.0, -9.0), SEARCH, False),
    Case("has_decreased", (1.0, 0.9997, 0.5, 4.0, -9.0), SEARCH, True),
    # The slope at the end does not excuse a higher objective, even a long way down.
    Case("has_decreased", (1.0, 1.5, 1.0, 4.0, 1.0), SEARCH, False),
    # No change of the objective: the slope decides.
    Case("has_decreased", (1.0, 1.0, 1.0, 1e-3, 0.0), SEARCH, True),
    Case("has_decreased", (-1.0, -1.0, 1.0, 1e-3, -0.9e-3), SEARCH, True),
    Case("has_decreased", (1.0, 1.0, 1.0, 1e-3, -1.1e-3), SEARCH, False),
    Case("has_decreased", (1.0, NAN, 1.0, 1.0, 1.0), SEARCH, False),
    Case("has_decreased", (1.0, INF, 1.0, 1.0, 1.0), SEARCH, False),
    Case("has_decreased", (INF, 1.0, 1.0, 1.0, 1.0), SEARCH, True),
    # objective, there, before, decrement, evaluations
    Case("is_stalled", (1.0, 1.0, 1e-4, 1e-4, 9), SEARCH, True),
    Case("is_stalled", (1.0, 1.0, 1e-4, 1e-4, 5), SEARCH, False),
    Case("is_stalled", (1.0, 1.0, 1e-4, 1e-5, 9), SEARCH, False),
    Case("is_stalled", (1.0, 0.9, 1e-4, 1e-4, 9), SEARCH, False),
    Case("is_stalled", (-1.0, -1.0, 1e-4, 1.0, 9), SEARCH, True),
    Case("is_stalled", (1.0, 1.0, 1e-4, NAN, 9), SEARCH, False),
    # taken, length
    Case("next_length", (True, 0.25), None, 1.0),
    Case("next_length", (False, 0.25), None, 0.125),
    # decrement
    Case("left_of_score", (4.0,), None, 2.0),
    Case("left_of_score", (-1e-20,), None, 0.0),
    Case("left_of_score", (NAN,), None, NAN),
    # what is left of the score
    Case("is_at_root", (1e-7,), SEARCH, True),
    Case("is_at_root", (1e-5,), SEARCH, False),
    Case("is_at_root", (NAN,), SEARCH, False),
    # what is left, length, evaluations
    Case("ends_search", (1e-7, 1.0, 2), SEARCH, True),
    Case("ends_search", (1e-5, 1.0, 2), SEARCH, False),
    Case("ends_search", (1e-5, 1.0, 10), SEARCH, True),
    Case("ends_search", (1e-5, 1e-13, 2), SEARCH, True),
    Case("ends_search", (1e-5, 1e-11, 2), SEARCH, False),
    Case("ends_search", (NAN, 1.0, 2), SEARCH, True),
    Case("ends_search", (INF, 1.0, 2), SEARCH, True),
    # what is left, evaluations
    Case("is_at_rest", (1e-7, 10), SEARCH, True),
    Case("is_at_rest", (5e-6, 9), SEARCH, True),
    Case("is_at_rest", (5e-6, 10), SEARCH, False),
    Case("is_at_rest", (5e-5, 9), SEARCH, False),
    Case("is_at_rest", (NAN, 9), SEARCH, False),
]


def is_of_search(case: Case) -> bool:
    """Whether the decision is one of the line search."""
    return hasattr(search_rules, case.decision)


def by_pytorch(case: Case, dtype: type) -> Any:
    """The decision on a tensor of rows."""
    kinds = {np.float32: torch.float32, np.float64: torch.float64}
    numbers = [
        torch.tensor([x], dtype=kinds[dtype] if isinstance(x, float) else None)
        for x in case.numbers
    ]
    rules = () if case.rules is None else (case.rules,)
    law = search_rules if is_of_search(case) else step_rules
    return getattr(law, case.decision)(*numbers, *rules)[0].item()


def by_numba(case: Case, dtype: type) -> Any:
    """The decision on numbers of a lane."""
    pytest.importorskip("numba")
    from pyro_expfam.deq.cpu.scalar_rules import RULES, SEARCH, in_dtype

    law = SEARCH if is_of_search(case) else RULES
    numbers = [dtype(x) if isinstance(x, float) else x for x in case.numbers]
    rules = () if case.rules is None else (in_dtype(case.rules, np.dtype(dtype)),)
    return kernel_of(law[case.decision])(*numbers, *rules)


@cache
def kernel_of(decision: Any) -> Any:
    """A function for Python that decides inside a kernel."""
    import numba

    @numba.njit
    def kernel(*arguments):
        return decision(*arguments)

    return kernel


def by_triton(case: Case, dtype: type) -> Any:
    """The decision on a block of rows."""
    pytest.importorskip("triton")
    assert dtype is np.float32
    from block_decisions import decide

    decided = decide(case.decision, case.numbers, case.rules)
    torch.testing.assert_close(decided, decided[0].expand(4), rtol=0, atol=0, equal_nan=True)
    return decided[0].item()


# On a device no row starts from a grid. There the certified law is one of float32.
EVALUATIONS = [
    pytest.param(case, evaluation, dtype, id=f"{case.decision}{case.numbers}-{evaluation.__name__}")
    for case in TABLE
    for evaluation in (by_pytorch, by_numba, by_triton)
    for dtype in (np.float32, np.float64)
    if evaluation is not by_triton or (dtype is np.float32 and case.decision != "restarts")
]


@pytest.mark.parametrize(("case", "evaluation", "dtype"), EVALUATIONS)
def test_every_evaluation_decides_by_the_table(case, evaluation, dtype):
    decided = evaluation(case, dtype)
    if isinstance(case.expected, bool):
        assert bool(decided) == case.expected
    else:
        rounding = 1e-6 if dtype is np.float32 else 1e-14
        assert decided == pytest.approx(case.expected, rel=rounding, nan_ok=True)


@pytest.mark.parametrize("rules", [RULES, UNBOUNDED])
@pytest.mark.parametrize("reach", [0.5, 1.0, 2.0, 4.0, INF])
def test_where_no_change_is_needed_every_change_gives_a_whole_step(reach, rules):
    square = torch.logspace(-8, 8, 400)
    reach = torch.full_like(square, reach)
    free = ~step_rules.needs_change(square, reach, rules)
    for part in (1.0, 0.3, 0.0):
        length = step_rules.first_length(part * square.sqrt(), reach, rules)
        assert (length[free] == 1).all()


def test_the_table_has_every_decision():
    law = (*step_rules.LAW, *search_rules.LAW)
    assert {case.decision for case in TABLE} == {function.__name__ for function in law}


FAMILIES = [
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.Ising(),
    pef.families.NegativeBinomial(0.3),
    pef.families.Gamma(0.5),
]


@pytest.mark.parametrize(("family", "latent_dim", "scale"), in_turn(FAMILIES, [2, 8], [0.7, 5.0]))
def test_kernels_of_a_processor_take_as_many_steps_as_pytorch(family, latent_dim, scale):
    pytest.importorskip("numba")
    table = random_table(family, 30, 20, latent_dim, weight_scale=scale, precision=0.01)
    start = torch.randn(30, latent_dim).double()
    compiled = FisherScoring().solve(table.problem(), start)
    # PyTorch removes rows in groups: each of them alone leaves in time.
    alone = [
        FisherScoring(compiled=False).solve(table.problem().rows(slice(s, s + 1)), start[s : s + 1])
        for s in range(30)
    ]
    num_iter = torch.cat([solution.num_iter for solution in alone])
    assert compiled.converged.all()
    # Where a number is within rounding of a threshold, decisions may differ.
    assert (compiled.num_iter == num_iter).double().mean() > 0.9
    value = torch.cat([solution.value for solution in alone])
    torch.testing.assert_close(compiled.value, value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("size", [0.3, 2.0])
def test_large_overdispersed_counts_take_few_steps(size, compiled):
    """Variances of such a row differ by orders of magnitude: damped steps alone are short."""
    table = random_table(
        pef.families.NegativeBinomial(size), 200, 30, 8, weight_scale=5.0, precision=0.01
    )
    solution = FisherScoring(compiled=compiled).solve(table.problem(), torch.zeros(200, 8).double())
    assert solution.converged.all()
    assert solution.num_iter.max() <= 45


@pytest.mark.parametrize("family", [*FAMILIES[:3], pef.families.Binomial(1000)], ids=str)
def test_kernels_of_a_device_take_as_many_steps_as_pytorch(family):
    pytest.importorskip("triton")
    from pyro_expfam.deq.cuda.solving import solve_rows
    from pyro_expfam.deq.solution import unsolved

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = random_table(family, 20, 12, 3, precision=0.1, dtype=torch.float32)
    problem = table.problem()
    problem = problem.with_fields({name: x.to(device) for name, x in problem.fields.items()})
    start = 2 * torch.randn(20, 3, device=device)
    solution = unsolved(start)
    solve_rows(problem, start, StepRules.of(1e-4, torch.float32, 1000), solution)
    assert solution.converged.all()
    alone = [
        FisherScoring(tol=1e-4, compiled=False).solve(
            problem.rows(slice(s, s + 1)), start[s : s + 1]
        )
        for s in range(20)
    ]
    num_iter = torch.cat([row.num_iter for row in alone])
    assert (solution.num_iter == num_iter).double().mean() > 0.8
