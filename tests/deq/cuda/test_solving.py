"""The kernel takes the steps of Fisher scoring to the root that float64 finds."""

import dataclasses

import pytest
import torch
from kernel_tables import FIELDS, SIZES, kernel_problem, to
from quick_cases import in_turn, slow_unless
from random_tables import FAMILIES, posterior_distance, random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, Solution
from pyro_expfam.deq.cuda.solving import solve_rows
from pyro_expfam.deq.fisher_scoring import DEFAULT_TOLERANCE

PLAIN = [
    family
    for family in FAMILIES
    if not isinstance(family, pef.families.Ising | pef.families.Binomial)
]
"""Families with kernels of their own: those of the others are the kernels of bits."""


def solve_by_kernel(problem, start, **settings) -> Solution:
    """The kernel's solution, written over memory that is full of wrong values."""
    num_rows = len(start)
    out = Solution(
        torch.full_like(start, torch.nan),
        torch.zeros(num_rows, dtype=torch.bool, device=start.device),
        torch.full((num_rows,), -7, device=start.device),
        torch.full((num_rows,), torch.nan, device=start.device),
        torch.ones(num_rows, dtype=torch.bool, device=start.device),
    )
    rules = FisherScoring(**settings).rules(torch.float32)
    solve_rows(problem, start, rules, out)
    return out


@pytest.mark.parametrize(("family", "size"), in_turn(FAMILIES, SIZES))
def test_roots_of_ragged_tables(family, size, device):
    problem = kernel_problem(family, *size, "nothing", device)
    start = torch.randn(size[0], size[2], device=device)
    solution = solve_by_kernel(problem, start)
    exact = FisherScoring(compiled=False).solve(problem.double(), start.double())
    assert solution.converged.all()
    assert posterior_distance(problem, solution.value).max() < 1e-3
    torch.testing.assert_close(solution.value.double(), exact.value, rtol=1e-4, atol=1e-4)
    assert (solution.num_iter >= 1).all()
    assert (solution.num_iter <= exact.num_iter.max()).all()
    assert (solution.residual <= DEFAULT_TOLERANCE[torch.float32]).all()


@pytest.mark.parametrize(("family", "fields"), in_turn(FAMILIES, list(FIELDS)))
def test_offsets_masks_and_weights(family, fields, device):
    problem = kernel_problem(family, 37, 21, 3, fields, device)
    start = torch.zeros(37, 3, device=device)
    solution = solve_by_kernel(problem, start)
    exact = FisherScoring(compiled=False).solve(problem.double(), start.double())
    assert solution.converged.all()
    torch.testing.assert_close(solution.value.double(), exact.value, rtol=1e-4, atol=1e-4)


def test_counts_that_differ_by_entry(device):
    family = pef.families.Binomial(torch.randint(1, 30, (20, 12)))
    problem = to(random_table(family, dtype=torch.float32).problem(), device)
    start = torch.zeros(20, 2, device=device)
    exact = FisherScoring(compiled=False).solve(
        to(problem, "cpu").double(), torch.zeros(20, 2).double()
    )
    solution = solve_by_kernel(problem, start)
    torch.testing.assert_close(solution.value.cpu().double(), exact.value, rtol=1e-4, atol=1e-4)


def test_statistics_that_are_not_contiguous(device):
    problem = kernel_problem(pef.families.Poisson(), 34, 19, 2, "nothing", device)
    transposed = dataclasses.replace(problem, y=problem.y.T.contiguous().T)
    start = torch.zeros(34, 2, device=device)
    straight, strided = (solve_by_kernel(p, start) for p in (problem, transposed))
    assert torch.equal(straight.value, strided.value)


@pytest.mark.parametrize("family", slow_unless(lambda family: family in PLAIN, FAMILIES), ids=str)
def test_the_objective_decreases_from_a_bad_start(family, device):
    problem = kernel_problem(family, 15, 12, 3, "offset, mask", device)
    start = 4 * torch.randn(15, 3, device=device)
    reached = problem.double().objective(start.double())
    for max_iter in (1, 2, 4, 200):
        solution = solve_by_kernel(problem, start, max_iter=max_iter)
        objective = problem.double().objective(solution.value.double())
        assert (objective <= reached * (1 + 1e-6) + 1e-3).all()
        assert (solution.num_iter <= max_iter).all()
        reached = objective
    # From there, counts may have information that the format cannot resolve.
    assert solution.converged.float().mean() > 0.8


def test_counts_of_every_size(device):
    table = random_table(pef.families.Poisson(), 40, 30, dtype=torch.float32)
    scale = torch.logspace(0, 5, 40)[:, None]
    y = torch.poisson(scale * torch.rand(40, 30))
    problem = to(table._replace(y=y).problem(), device)
    solution = solve_by_kernel(problem, torch.zeros(40, 2, device=device))
    # What single precision cannot resolve is left to double precision.
    assert posterior_distance(problem, solution.value)[solution.converged].max() < 0.05
    assert solution.converged.float().mean() > 0.8


def test_information_that_the_format_cannot_resolve_is_reported(device):
    # Two loadings that agree to the last digits.
    W = torch.randn(20, 1).expand(20, 2) * torch.tensor([1.0, 1.0 + 1e-6])
    family = pef.families.Poisson()
    y = torch.full((5, 20), 1e5)
    table = random_table(family, 5, 20, dtype=torch.float32)._replace(y=y, W=30 * W)
    problem = to(table.problem(), device)
    solution = solve_by_kernel(problem, torch.zeros(5, 2, device=device))
    assert not solution.converged.any()
    assert solution.value.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_layer_chooses_the_kernels(monkeypatch):
    from pyro_expfam.deq.cuda import solving

    calls = []
    original = solving.solve_rows
    monkeypatch.setattr(solving, "solve_rows", lambda *x: (calls.append(1), original(*x)))
    table = random_table(pef.families.Bernoulli(), dtype=torch.float32)
    y, W, b = (x.cuda() for x in (table.y, table.W, table.b))
    fused = pef.solve_latents(table.family, y, W, b)
    plain = pef.solve_latents(table.family, y, W, b, solver=FisherScoring(compiled=False))
    assert len(calls) == 1
    torch.testing.assert_close(fused.value, plain.value, rtol=1e-4, atol=1e-4)
