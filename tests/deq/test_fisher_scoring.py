"""Fisher scoring converges from everywhere to the root that an independent optimiser finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import FAMILIES, posterior_distance, random_table
from scipy.optimize import minimize

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, fisher_scoring
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem

# What rounding in float32 leaves of the score, in posterior standard deviations, at most: natural
# parameters up to 12 are known to 1e-6, times the square root of a mean up to e^12.
ROUNDING = {torch.float32: 2e-2, torch.float64: 1e-7}

problems = st.fixed_dictionaries(
    {
        "family": st.sampled_from(FAMILIES),
        "weight_scale": st.floats(0.1, 5.0),
        "precision": st.floats(0.01, 100.0),
        "latent_dim": st.integers(1, 32),
        "num_features": st.integers(1, 40),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
    }
)


@settings(max_examples=150)
@given(problems, st.integers(0, 2**31))
def test_every_row_of_every_problem_converges(setting, seed):
    torch.manual_seed(seed)
    table = random_table(**setting)
    solution = pef.solve_latents(table.family, table.y, table.W, table.b, table.precision)
    assert solution.converged.all()
    assert solution.value.isfinite().all()
    distance = posterior_distance(table.problem(), solution.value)
    assert distance.max() <= ROUNDING[setting["dtype"]]


@settings(max_examples=40)
@given(problems, st.integers(0, 2**31))
def test_the_root_is_the_optimum_that_scipy_finds(setting, seed):
    torch.manual_seed(seed)
    table = random_table(**{**setting, "dtype": torch.float64}, num_rows=2)
    problem = table.problem()
    value = pef.solve_latents(table.family, table.y, table.W, table.b, table.precision).value

    for s in range(2):
        row = problem.rows(slice(s, s + 1))

        def objective(z, row=row):
            return row.objective(torch.as_tensor(z)[None]).item()

        def gradient(z, row=row):
            return -row.score(torch.as_tensor(z)[None])[0].numpy()

        def hessian(z, row=row):
            return row.information(torch.as_tensor(z)[None])[0].numpy()

        start = np.zeros(setting["latent_dim"])
        found = minimize(
            objective, start, jac=gradient, hess=hessian, method="trust-exact", tol=1e-10
        )
        difference = torch.as_tensor(found.x) - value[s]
        information = row.information(value[s : s + 1])[0]
        in_deviations = (difference @ information @ difference).sqrt()
        # scipy stops on the size of the gradient, so the difference is an error of scipy.
        left = posterior_distance(row, torch.as_tensor(found.x)[None])[0]
        assert in_deviations <= 2 * left + 1e-8
        assert row.objective(value[s : s + 1]).item() <= found.fun + 1e-12 * abs(found.fun) + 1e-9


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("start_scale", [0.0, 1.0, 8.0])
def test_the_objective_decreases_at_every_iteration_from_any_start(family, start_scale):
    table = random_table(family, num_rows=200, latent_dim=3, weight_scale=1.5, precision=0.05)
    problem = table.problem()
    z = start_scale * torch.randn(200, 3, dtype=torch.float64)
    reached = problem.objective(z)
    for max_iter in (*range(1, 12), 200):
        solution = FisherScoring(max_iter=max_iter).solve(problem, z)
        objective = problem.objective(solution.value)
        assert (objective <= reached + 1e-12 * reached.abs()).all()
        reached = objective
    assert solution.converged.all()


def test_counts_of_ordinary_size_do_not_overflow():
    family = pef.families.Poisson()
    for dtype in (torch.float32, torch.float64):
        W = torch.randn(30, 4, dtype=dtype)
        y = torch.poisson(torch.full((50, 30), 150.0, dtype=dtype))
        y[0] = 1e6
        solution = pef.solve_latents(family, y, W, torch.zeros(30, dtype=dtype))
        assert solution.converged.all()
        assert solution.value.isfinite().all()


def test_a_gaussian_table_takes_one_iteration():
    table = random_table(FAMILIES[0], latent_dim=4)
    solution = pef.solve_latents(table.family, table.y, table.W, table.b, table.precision)
    assert (solution.num_iter == 1).all()
    gram = table.W.T @ table.W + table.precision * torch.eye(4, dtype=torch.float64)
    exact = torch.linalg.solve(gram, table.W.T @ (table.y / 0.7 - table.b).T).T
    torch.testing.assert_close(solution.value, exact)


def test_the_residual_bounds_the_distance_from_the_root():
    table = random_table(pef.families.Poisson(), num_rows=300, weight_scale=1.0)
    problem = table.problem()
    for tol in (1e-1, 1e-3, 1e-6):
        solution = pef.solve_latents(
            table.family, table.y, table.W, table.b, table.precision, tol=tol
        )
        distance = posterior_distance(problem, solution.value)
        assert (solution.residual <= tol).all()
        # The bound is in the norm at the last iterate, which differs by the change of variances.
        assert (distance <= 2 * solution.residual + 1e-13).all()


def test_rows_that_do_not_converge_are_reported():
    table = random_table(pef.families.Poisson(), num_rows=50, weight_scale=2.0, precision=0.01)
    with pytest.warns(pef.ConvergenceWarning, match=r"\d+ of 50 rows did not converge"):
        solution = pef.solve_latents(
            table.family, table.y, table.W, table.b, table.precision, max_iter=2
        )
    assert not solution.converged.all()
    assert (solution.num_iter[~solution.converged] == 2).all()


def test_rows_do_not_depend_on_each_other():
    table = random_table(pef.families.Bernoulli(), num_rows=64, latent_dim=5)
    whole = pef.solve_latents(table.family, table.y, table.W, table.b).value
    alone = [pef.solve_latents(table.family, row[None], table.W, table.b).value for row in table.y]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fields", [{}, {"offset": (1, 12)}, {"offset": (30, 12)}], ids=str)
@pytest.mark.parametrize("latent_dim", [1, 3, 5])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_start_that_all_rows_share_changes_nothing(family, latent_dim, fields):
    table = random_table(family, num_rows=30, latent_dim=latent_dim, weight_scale=1.5)
    given = {name: torch.randn(shape, dtype=torch.float64) for name, shape in fields.items()}
    problem = table.problem(**given)
    start = torch.randn(latent_dim, dtype=torch.float64).expand(30, latent_dim)
    shared = FisherScoring().solve(problem, start)
    apart = FisherScoring().solve(problem, start.contiguous())
    torch.testing.assert_close(shared.value, apart.value, rtol=1e-11, atol=1e-11)
    assert torch.equal(shared.num_iter, apart.num_iter)


@pytest.mark.parametrize("case", ["zero W", "collinear W", "more latents than features"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_degenerate_loadings_work(family, case, dtype):
    W = {
        "zero W": torch.zeros(6, 3, dtype=dtype),
        "collinear W": torch.randn(6, 1, dtype=dtype).expand(6, 3),
        "more latents than features": torch.randn(6, 10, dtype=dtype),
    }[case]
    y = family.sample(torch.randn(15, 6, dtype=dtype))
    solution = pef.solve_latents(family, y, W, torch.zeros(6, dtype=dtype), precision=0.01)
    assert solution.converged.all()
    if case == "zero W":
        assert (solution.value == 0).all()
    if case == "collinear W":
        torch.testing.assert_close(solution.value[:, 0], solution.value[:, 1], rtol=1e-3, atol=1e-3)


def test_constant_and_empty_rows_and_columns_work():
    family = pef.families.Poisson()
    y = torch.poisson(torch.ones(20, 8))
    y[:, 0], y[:, 1], y[0], y[1] = 0.0, 3.0, 0.0, 7.0
    solution = pef.solve_latents(family, y, torch.randn(8, 2), torch.zeros(8))
    assert solution.converged.all()
    assert solution.value.isfinite().all()


def test_an_information_that_float32_cannot_factorise_is_formed_again_in_float64():
    # One feature with counts of 10⁶ beside a direction that only the prior holds.
    W = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0000001]]) * 3.0
    y = torch.tensor([[1e6, 9e5], [1e6, 1e6]])
    solution = pef.solve_latents(pef.families.Poisson(), y, W, torch.zeros(2), precision=0.01)
    assert solution.converged.all()
    assert solution.value.isfinite().all()
    fit = (solution.value @ W.T).exp()
    torch.testing.assert_close(fit.sum(-1), y.sum(-1), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_rows_that_only_rounding_keeps_from_the_tolerance_have_converged(scale):
    torch.manual_seed(0)
    z, loading = torch.randn(200, 3).double(), torch.randn(60, 3).double()
    y = torch.poisson(scale * (z @ loading.mT).exp())
    solution = pef.solve_latents(
        pef.families.ZeroInflatedPoisson(0.1), y, loading, torch.zeros(60).double()
    )
    # The tolerance is below what the rounding of such counts leaves of the score.
    assert solution.residual.max() > 1e-12
    assert solution.residual.max() < 1e-9
    assert solution.converged.all()
    few = FisherScoring(max_iter=3)
    with pytest.warns(pef.ConvergenceWarning, match="rows did not converge"):
        pef.solve_latents(
            pef.families.ZeroInflatedPoisson(0.1), y, loading, torch.zeros(60).double(), solver=few
        )


def test_rows_that_find_no_end_in_single_precision_soon_go_on_in_double(monkeypatch):
    # With so many latents, the score of some row is a difference of numbers so large that single
    # precision never gets it below the tolerance.
    generator = torch.Generator().manual_seed(0)
    W = 0.4 * torch.randn(500, 30, generator=generator)
    b = torch.randn(500, generator=generator) - 1
    eta = torch.randn(4_000, 30, generator=generator) @ W.T + b
    y = torch.poisson(eta[eta.amax(1).topk(20).indices].exp(), generator=generator)
    problem = LatentProblem(pef.families.Poisson(), y, Dense(W), b, torch.ones(()), None, None)
    limits = []
    solve_tiles = fisher_scoring._solve_tiles

    def note(problem, start, rules, out):
        limits.append((start.dtype, rules.max_iter))
        solve_tiles(problem, start, rules, out)

    monkeypatch.setattr(fisher_scoring, "_solve_tiles", note)
    for max_iter in (1_000, 20):
        limits.clear()
        solver = FisherScoring(compiled=False, max_iter=max_iter)
        solution = solver.solve(problem, torch.zeros(20, 30))
        most = min(max_iter, fisher_scoring.MOST_IN_SINGLE)
        assert limits == [(torch.float32, most), (torch.float64, max_iter)]
        assert solution.converged.all()
