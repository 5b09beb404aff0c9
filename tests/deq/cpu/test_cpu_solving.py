"""The compiled kernel takes the steps of the PyTorch operations."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from quick_cases import in_turn
from random_tables import FAMILIES, posterior_distance, random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, cpu

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.solving import ROWS_OF_A_GRID, _change

COMPILED = [
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
    pef.families.Binomial(total_count=torch.arange(1, 13)),
]
NUM_ROWS, NUM_FEATURES = 300, 12

FIELDS = {
    "nothing": {},
    "weights by row": {"weights": (NUM_ROWS, 1)},
    "weights by feature": {"weights": (1, NUM_FEATURES)},
    "one offset": {"offset": (1, 1)},
    "offset by row": {"offset": (NUM_ROWS, 1)},
    "offset by feature": {"offset": (1, NUM_FEATURES)},
    "offset and weights": {
        "offset": (NUM_ROWS, NUM_FEATURES),
        "weights": (NUM_ROWS, NUM_FEATURES),
    },
}


def table_and_fields(family, fields, **settings):
    table = random_table(family, num_rows=NUM_ROWS, **settings)
    given = {name: torch.randn(shape).to(table.W) for name, shape in FIELDS[fields].items()}
    if "weights" in given:
        given["weights"] = given["weights"].clamp(min=0)
    return table.problem(**given)


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize(("family", "latent_dim"), in_turn(COMPILED, [1, 2, 5, 20]))
def test_both_ways_come_to_the_same_root(family, latent_dim, fields):
    problem = table_and_fields(family, fields, latent_dim=latent_dim, weight_scale=1.0)
    start = torch.randn(NUM_ROWS, latent_dim).double()
    assert cpu.has_kernels(problem)
    fast = FisherScoring().solve(problem, start)
    slow = FisherScoring(compiled=False).solve(problem, start)
    assert fast.converged.all()
    torch.testing.assert_close(fast.value, slow.value, rtol=1e-9, atol=1e-9)
    # PyTorch lets rows leave in groups, and later.
    assert (fast.num_iter <= slow.num_iter).all()
    assert (fast.residual <= 1e-12).all()


@pytest.mark.parametrize(("num_features", "latent_dim"), [(70, 64), (1_100, 3)])
def test_many_latents_and_many_features(num_features, latent_dim):
    table = random_table(
        pef.families.Poisson(), 40, num_features, latent_dim, weight_scale=0.7 / latent_dim**0.5
    )
    problem, start = table.problem(), torch.zeros(40, latent_dim).double()
    assert cpu.has_kernels(problem)
    fast = FisherScoring().solve(problem, start)
    slow = FisherScoring(compiled=False).solve(problem, start)
    assert fast.converged.all()
    torch.testing.assert_close(fast.value, slow.value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", COMPILED, ids=str)
def test_single_precision(family):
    problem = table_and_fields(family, "offset by row", latent_dim=3, dtype=torch.float32)
    solution = FisherScoring(tol=1e-4).solve(problem, torch.zeros(NUM_ROWS, 3))
    assert solution.converged.all()
    assert posterior_distance(problem, solution.value).max() < 2e-3


@pytest.mark.parametrize("family", COMPILED, ids=str)
def test_the_objective_decreases_at_every_iteration(family):
    problem = table_and_fields(family, "offset and weights", latent_dim=3, weight_scale=1.5)
    z = 8 * torch.randn(NUM_ROWS, 3).double()
    reached = problem.objective(z)
    for max_iter in (*range(1, 12), 200):
        solution = FisherScoring(max_iter=max_iter).solve(problem, z)
        objective = problem.objective(solution.value)
        assert (objective <= reached + 1e-12 * reached.abs()).all()
        assert (solution.num_iter <= max_iter).all()
        reached = objective
    assert solution.converged.all()


def test_the_last_rows_of_a_table_are_solved_too():
    for num_rows in (1, LANES - 1, LANES, LANES + 1):
        table = random_table(pef.families.Poisson(), num_rows=num_rows)
        problem, start = table.problem(), torch.zeros(num_rows, 2).double()
        solution = FisherScoring().solve(problem, start)
        expected = FisherScoring(compiled=False).solve(problem, start)
        torch.testing.assert_close(solution.value, expected.value, rtol=1e-9, atol=1e-9)


def test_threads_share_the_rows():
    table = random_table(pef.families.Bernoulli(), num_rows=30_000)
    threads = torch.get_num_threads()
    values = []
    for count in (1, 3):
        torch.set_num_threads(count)
        values.append(FisherScoring().solve(table.problem(), torch.zeros(30_000, 2).double()).value)
    torch.set_num_threads(threads)
    assert torch.equal(*values)


def test_tables_that_the_kernel_leaves_to_pytorch():
    cases = [
        random_table(FAMILIES[0]),
        random_table(pef.families.Poisson(), latent_dim=cpu.LARGEST_LATENT_DIM + 1),
        random_table(pef.families.Poisson(), num_features=cpu.LARGEST_NUM_FEATURES + 1, num_rows=2),
        random_table(pef.families.Binomial(torch.full((20, 1), 5)), num_rows=20),
    ]
    assert not any(cpu.has_kernels(table.problem()) for table in cases)


def test_without_numba_everything_works():
    script = """
import sys
sys.modules["numba"] = None
import torch
import pyro_expfam as pef
y = torch.bernoulli(torch.full((20, 6), 0.5))
solution = pef.solve_latents(pef.families.Bernoulli(), y, torch.randn(6, 2), torch.zeros(6))
assert solution.converged.all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_solver_is_a_value():
    solver = FisherScoring(tol=1e-3, compiled=False)
    assert pickle.loads(pickle.dumps(solver)) == solver


@pytest.mark.parametrize("family", COMPILED, ids=str)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_large_tables_start_close_to_their_roots(family, latent_dim):
    table = random_table(family, ROWS_OF_A_GRID, latent_dim=latent_dim)
    problem = table.problem()
    zero = torch.zeros(()).double().expand(ROWS_OF_A_GRID, latent_dim)
    near, far = (FisherScoring().solve(problem, start) for start in (zero, zero.clone()))
    assert near.converged.all()
    torch.testing.assert_close(near.value, far.value, rtol=1e-9, atol=1e-9)
    saved = 0.5 if isinstance(family, pef.families.ContinuousBernoulli) else 1
    assert near.num_iter.double().mean() < far.num_iter.double().mean() - saved


@pytest.mark.parametrize("family", COMPILED[:5], ids=str)
@pytest.mark.parametrize("precision", [1.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_row_is_lost_by_its_start(family, precision, dtype):
    """With large loadings the grid has statistics of no table, whose roots lie far away."""
    for num_features, scale in ((3, 5.0), (12, 3.0), (40, 1.5)):
        table = random_table(
            family,
            ROWS_OF_A_GRID,
            num_features,
            weight_scale=scale,
            precision=precision,
            dtype=dtype,
        )
        problem = table.problem()
        zero = torch.zeros((), dtype=dtype).expand(ROWS_OF_A_GRID, 2)
        near, far = (FisherScoring().solve(problem, start) for start in (zero, zero.clone()))
        assert near.converged.all()
        assert far.converged.all()
        # A start that is left for zero costs one evaluation.
        assert near.num_iter.double().mean() <= far.num_iter.double().mean() + 1
        apart = (near.value - far.value).abs().max()
        assert apart <= (2e-2 if dtype is torch.float32 else 1e-8) * (1 + far.value.abs().max())


def test_a_table_of_equal_rows_has_no_range_of_statistics():
    rows = ROWS_OF_A_GRID
    y = torch.ones(rows, 5)
    W = torch.randn(5, 2)
    solution = pef.solve_latents(pef.families.Bernoulli(), y, W, torch.zeros(5))
    assert solution.converged.all()
    alone = pef.solve_latents(pef.families.Bernoulli(), y[:1], W, torch.zeros(5))
    torch.testing.assert_close(solution.value, alone.value.expand(rows, 2))


@numba.njit
def change_of_lanes(loading, self_concordance, directions, changes):
    for r in range(len(changes)):
        changes[r] = _change(loading, self_concordance, directions, r)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_features", [1, 7, 8, 15, 16, 17, 50, 64, 65, 127, 200])
def test_the_change_along_a_direction_is_the_largest_of_all_features(num_features, dtype):
    random = np.random.default_rng(num_features)
    for size in (1, 2, 5):
        loading = np.zeros((size + size % 2, num_features), dtype)
        loading[:size] = random.normal(size=(size, num_features))
        directions = random.normal(size=(size, LANES)).astype(dtype)
        changes = np.empty(LANES, dtype)
        change_of_lanes(loading, dtype(0.5), directions, changes)
        expected = 0.5 * np.abs(directions.T @ loading[:size]).max(1)
        np.testing.assert_allclose(changes, expected, rtol=1e-5)
        # In every place, a feature that overflows or is no number is the largest change.
        for worst in (np.inf, np.nan):
            for place in {0, num_features // 2, num_features - 1}:
                spoilt = loading.copy()
                spoilt[0, place] = worst
                change_of_lanes(spoilt, dtype(0.5), directions, changes)
                np.testing.assert_array_equal(changes, np.full(LANES, worst))
