"""One call for a small table finds the root and log densities that the general kernels find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.cpu.likelihood import values
from pyro_expfam.deq.cpu.small_tables import solve_small
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Bernoulli, Binomial, Family, Poisson

FAMILIES = [Bernoulli(), Poisson(), Binomial(3), Binomial(7)]
SOLVER = FisherScoring()


def problem_of(
    family: Family, dtype: torch.dtype, shape: tuple[int, int, int] = (37, 21, 3)
) -> LatentProblem:
    torch.manual_seed(0)
    N, D, L = shape
    W, b = 0.5 * torch.randn(D, L, dtype=dtype), 0.3 * torch.randn(D, dtype=dtype)
    y = family.sample(0.5 * torch.randn(N, D, dtype=dtype))
    return LatentProblem(family, y, W, b, torch.tensor(0.7, dtype=dtype))


def start_of(problem: LatentProblem) -> Tensor:
    return problem.b.new_zeros(problem.num_rows, problem.latent_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_they_are_those_of_the_general_kernels(latent_dim: int, dtype: torch.dtype) -> None:
    # In turns: what is kept of one law or size is not taken for another.
    for family in (*FAMILIES, *FAMILIES):
        plain = problem_of(family, dtype, (37, 21, latent_dim))
        by_row = torch.linspace(-1, 1, 37, dtype=dtype)[:, None]
        for problem in (plain, replace(plain, offset=by_row)):
            start = start_of(problem)
            found = solve_small(problem, SOLVER.rules(dtype), start)
            assert found is not None
            wanted = SOLVER.solve(problem, start)
            assert torch.equal(found[0].value, wanted.value)
            assert torch.equal(found[0].num_iter, wanted.num_iter)
            assert torch.equal(found[0].residual, wanted.residual)
            for x, y in zip(found[1], values(problem, wanted.value), strict=True):
                assert torch.equal(x, y)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_densities_are_those_of_the_laws(family: Family) -> None:
    problem = problem_of(family, torch.float64)
    found = solve_small(problem, SOLVER.rules(torch.float64), start_of(problem))
    assert found is not None
    z, (likelihood, prior, of_W, of_b) = found[0].value, found[1]
    W, b = problem.W.clone().requires_grad_(), problem.b.clone().requires_grad_()
    wanted = family.log_prob(problem.y, z @ W.mT + b).sum(-1)
    normal = torch.distributions.Normal(0.0, problem.precision.rsqrt())
    torch.testing.assert_close(likelihood, wanted.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prior, normal.log_prob(z).sum(-1), rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(wanted.sum(), (W, b))
    torch.testing.assert_close((of_W, of_b), gradients, rtol=1e-12, atol=1e-12)


def test_the_table_may_change_in_place() -> None:
    problem = problem_of(Bernoulli(), torch.float64)
    rules, start = SOLVER.rules(torch.float64), start_of(problem)
    solve_small(problem, rules, start)
    for changed in (problem.y, problem.b, problem.W, problem.precision):
        changed.mul_(0.0 if changed is problem.y else 1.5)
        found = solve_small(problem, rules, start)
        assert found is not None
        assert torch.equal(found[0].value, SOLVER.solve(problem, start).value)


def test_other_tables_are_left_to_the_general_kernels() -> None:
    problem = problem_of(Poisson(), torch.float64)
    rules, start = SOLVER.rules(torch.float64), start_of(problem)
    assert solve_small(problem, rules, start) is not None
    assert solve_small(problem, rules._replace(max_iter=1), start) is None
    means = torch.ones(1, 3, dtype=torch.float64)
    assert solve_small(replace(problem, loc=means), rules, start) is None
    for shape in ((5_000, 2, 1), (700, 200, 1)):
        large = problem_of(Bernoulli(), torch.float32, shape)
        assert solve_small(large, SOLVER.rules(torch.float32), start_of(large)) is None
