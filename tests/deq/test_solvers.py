"""The solvers agree where they converge, and say so where they do not."""

import math

import pytest
import torch
from random_tables import FAMILIES, posterior_distance, random_table

import pyro_expfam as pef
from pyro_expfam.deq import Anderson, FisherScoring, FixedPoint, Solution, Solver


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("solver", [Anderson(), FixedPoint()], ids=["anderson", "fixed_point"])
def test_all_solvers_find_the_same_root_of_a_contraction(family, solver):
    table = random_table(family, weight_scale=0.02, num_rows=30, latent_dim=3)
    reference = pef.solve_latents(table.family, table.y, table.W, table.b)
    solution = pef.solve_latents(table.family, table.y, table.W, table.b, solver=solver)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, reference.value, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_a_flag_of_convergence_is_true_where_the_score_is_small_and_nowhere_else(solver):
    table = random_table(pef.families.Bernoulli(), weight_scale=0.7, num_rows=200, precision=0.1)
    with pytest.warns(pef.ConvergenceWarning):
        solution = pef.solve_latents(
            table.family, table.y, table.W, table.b, 0.1, solver=solver, tol=1e-6, max_iter=30
        )
    score = table.problem().score(solution.value)
    small = score.norm(dim=-1) / 0.1**0.5 <= 1e-6
    assert torch.equal(solution.converged, small)
    distance = posterior_distance(table.problem(), solution.value)
    assert (distance <= solution.residual * (1 + 1e-9)).all()


def test_anderson_takes_fewer_iterations_than_the_fixed_point():
    table = random_table(pef.families.Bernoulli(), weight_scale=0.3, num_rows=100)
    anderson = pef.solve_latents(table.family, table.y, table.W, table.b, solver="anderson")
    fixed_point = pef.solve_latents(table.family, table.y, table.W, table.b, solver="fixed_point")
    assert anderson.converged.all()
    assert fixed_point.converged.all()
    assert anderson.num_iter.sum() < fixed_point.num_iter.sum()


@pytest.mark.parametrize("solver", ["anderson", "fixed_point", "fisher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solvers_by_name_keep_the_dtype(solver, dtype):
    table = random_table(pef.families.Bernoulli(), weight_scale=0.1, dtype=dtype)
    solution = pef.solve_latents(table.family, table.y, table.W, table.b, solver=solver)
    assert solution.value.dtype == dtype
    assert solution.converged.all()


def test_a_diverging_iteration_leaves_finite_latents():
    table = random_table(pef.families.Poisson(), weight_scale=2.0, num_rows=40)
    for solver in (FixedPoint(damping=1.0, max_iter=60), Anderson(max_iter=60)):
        with pytest.warns(pef.ConvergenceWarning):
            solution = pef.solve_latents(table.family, table.y, table.W, table.b, solver=solver)
        assert solution.value.isfinite().all()
        assert not solution.converged.all()


def test_a_solver_of_the_users_own_serves():
    class Exact(Solver):
        def solve(self, problem, start):
            return FisherScoring(tol=1e-13).solve(problem, start + 1.0)

    table = random_table(pef.families.Bernoulli())
    solution = pef.solve_latents(table.family, table.y, table.W, table.b, solver=Exact())
    assert isinstance(solution, Solution)
    reference = pef.solve_latents(table.family, table.y, table.W, table.b)
    torch.testing.assert_close(solution.value, reference.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedPoint(damping=0.0), r"damping must be in \(0, 1\], got 0.0"),
        (lambda: Anderson(window=0), "window must be a whole number of at least 1, got 0"),
        (lambda: Anderson(regularisation=-1.0), "regularisation must be at least 0 and finite"),
        (lambda: Anderson(tol=0.0), "tol must be a positive finite number, got 0.0"),
        (lambda: FixedPoint(max_iter=0), "max_iter must be a whole number of at least 1, got 0"),
        (lambda: FisherScoring(tol=math.inf), "tol must be a positive finite number, got inf"),
        (lambda: FisherScoring(max_iter=1.5), "max_iter must be a whole number of at least 1"),
        (lambda: Anderson(mixing=2.0), r"mixing must be in \(0, 1\], got 2.0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
