"""The kernels of categories take the steps of the PyTorch operations, and have their gradients."""

import pytest
import torch
from random_tables import posterior_distance

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu, root_gradients

pytest.importorskip("numba")

from pyro_expfam.deq.cpu import kernels
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.solving import ROWS_OF_A_GRID

F = pef.families
DTYPES = [torch.float32, torch.float64]

SIZES = [(1, 1, 2, 1), (150, 1, 3, 2), (150, 6, 2, 2), (150, 5, 4, 5), (40, 3, 10, 16)]
"""Rows, columns, levels and latents."""

FIELDS = {
    "nothing": {},
    "one offset": {"offset": (1, 1)},
    "offset by row, weights by feature": {"offset": (-1, 1), "weights": (1, -1)},
    "offset by feature, weights by row": {"offset": (1, -1), "weights": (-1, 1)},
    "offset, mask": {"offset": (-1, -1), "mask": (-1, -1)},
}
"""Offsets by level and weights by column, by shape: -1 stands for all of them."""


def random_problem(size, fields="nothing", dtype=torch.float64, scale=1.0, precision=1.0):
    rows, columns, levels, latent_dim = size
    family = F.Categorical(levels)
    W = scale * torch.randn(columns * levels, latent_dim, dtype=dtype) / latent_dim**0.5
    b = torch.randn(columns * levels, dtype=dtype)
    y = family.sample(torch.randn(rows, latent_dim, dtype=dtype) @ W.T + b)
    given = {}
    for name, shape in FIELDS[fields].items():
        wide = columns * levels if name == "offset" else columns
        whole = (rows, wide)
        given[name] = torch.randn(
            [n if s == -1 else s for s, n in zip(shape, whole, strict=True)], dtype=dtype
        )
    if "mask" in given:
        given["weights"] = (given.pop("mask") < 0.4).to(dtype)
    if "weights" in given:
        weights = given["weights"].clamp(min=0)
        given["weights"] = (
            weights if weights.shape[1] == 1 else weights.repeat_interleave(levels, -1)
        )
    return LatentProblem(family, y, W, b, torch.tensor(precision, dtype=dtype), **given)


def starts(problem):
    return torch.randn(problem.num_rows, problem.latent_dim, dtype=problem.W.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_ways_come_to_the_same_root(size, fields, dtype):
    problem = random_problem(size, fields, dtype)
    assert cpu.has_kernels(problem)
    start = starts(problem)
    fast = FisherScoring().solve(problem, start)
    slow = FisherScoring(compiled=False).solve(problem, start)
    assert fast.converged.all()
    tol = 2e-5 if dtype is torch.float32 else 1e-9
    torch.testing.assert_close(fast.value, slow.value, rtol=tol, atol=tol)
    if dtype is torch.float64:
        # PyTorch lets rows leave in groups, and later.
        assert (fast.num_iter <= slow.num_iter).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_of_loading_intercept_and_precision(size, fields, dtype):
    problem = random_problem(size, fields, dtype)
    start = torch.zeros_like(starts(problem))
    z = FisherScoring(compiled=False).solve(problem, start).value
    grad = torch.randn_like(z)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    expected = root_gradients.gradients(problem, z, grad, root_gradients.SUMMED)
    tol = 1e-5 if dtype is torch.float32 else 1e-12
    for name, x in found.items():
        assert float((x - expected[name]).norm()) <= tol * (1 + float(expected[name].norm()))


def test_the_objective_decreases_at_every_iteration():
    problem = random_problem((200, 6, 3, 3), "offset, mask", scale=3.0)
    z = 8 * starts(problem)
    reached = problem.objective(z)
    for max_iter in (*range(1, 12), 200):
        solution = FisherScoring(max_iter=max_iter).solve(problem, z)
        objective = problem.objective(solution.value)
        assert (objective <= reached + 1e-12 * reached.abs()).all()
        reached = objective
    assert solution.converged.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("precision", [1e-3, 1.0])
def test_steep_loadings(dtype, levels, precision):
    """Probabilities of 0 and 1."""
    problem = random_problem((300, 8, levels, 2), "nothing", dtype, 10.0, precision)
    solution = FisherScoring().solve(problem, torch.zeros_like(starts(problem)))
    assert solution.converged.all()
    rounding = torch.finfo(dtype).eps * 100 * (1 + solution.value.norm(dim=-1) * problem.W.norm())
    wanted = 1e-5 if dtype is torch.float32 else 1e-10
    assert bool((posterior_distance(problem, solution.value) <= wanted + rounding).all())


@pytest.mark.parametrize("levels", [2, 5])
def test_both_ways_take_equal_steps_from_far_away(levels):
    """Linear predictors of hundreds, from where the first steps are damped again and again."""
    problem = random_problem((200, 8, levels, 2), scale=10.0, precision=0.1)
    start = 30 * starts(problem)
    for max_iter in (1, 2, 5, 20):
        fast = FisherScoring(max_iter=max_iter).solve(problem, start)
        slow = FisherScoring(max_iter=max_iter, compiled=False).solve(problem, start)
        torch.testing.assert_close(fast.value, slow.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_where_a_probability_is_one(dtype):
    """The information of a row is then a small difference of large numbers."""
    problem = random_problem((300, 8, 4, 2), "nothing", dtype, 6.0, 0.1)
    start = torch.zeros_like(starts(problem))
    z = FisherScoring().solve(problem, start).value
    grad = torch.randn_like(z)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    exact = root_gradients.gradients(
        problem.double(), z.double(), grad.double(), root_gradients.SUMMED
    )
    tol = 1e-4 if dtype is torch.float32 else 1e-11
    for name, x in found.items():
        assert float((x - exact[name]).norm()) <= tol * float(exact[name].norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_without_observations_is_the_prior(dtype):
    problem = random_problem((20, 4, 3, 3), "nothing", dtype)
    empty = LatentProblem(
        *(problem.family, problem.y, problem.W, problem.b, problem.precision),
        weights=torch.zeros_like(problem.y),
    )
    solution = FisherScoring().solve(empty, starts(empty))
    assert solution.converged.all()
    assert float(solution.value.abs().max()) < 1e-6
    found = kernels.gradients(empty, solution.value, solution.value, root_gradients.SUMMED)
    assert not found["W"].any()
    assert not found["b"].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_levels_are_bits_of_their_difference(dtype):
    two = random_problem((200, 7, 2, 3), "offset, mask", dtype)
    bits = LatentProblem(
        F.Bernoulli(),
        two.y[:, 1::2],
        two.W[1::2] - two.W[::2],
        two.b[1::2] - two.b[::2],
        two.precision,
        two.offset[:, 1::2] - two.offset[:, ::2],
        two.weights[:, ::2],
    )
    start = starts(two)
    found, expected = (FisherScoring().solve(problem, start).value for problem in (two, bits))
    tol = 2e-5 if dtype is torch.float32 else 1e-10
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_large_tables_start_close_to_their_roots(latent_dim):
    problem = random_problem((ROWS_OF_A_GRID, 6, 3, latent_dim))
    zero = torch.zeros(()).double().expand(ROWS_OF_A_GRID, latent_dim)
    near, far = (FisherScoring().solve(problem, start) for start in (zero, zero.clone()))
    assert near.converged.all()
    torch.testing.assert_close(near.value, far.value, rtol=1e-9, atol=1e-9)
    assert near.num_iter.double().mean() < far.num_iter.double().mean() - 1


@pytest.mark.parametrize("num_rows", [1, LANES - 1, LANES, LANES + 1])
def test_the_last_rows_of_a_table_count_once(num_rows):
    problem = random_problem((num_rows, 3, 3, 2))
    zero = torch.zeros_like(starts(problem))
    z = FisherScoring().solve(problem, zero).value
    expected = FisherScoring(compiled=False).solve(problem, zero).value
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(z)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    exact = root_gradients.gradients(problem, z, grad, root_gradients.SUMMED)
    torch.testing.assert_close(found["b"], exact["b"])


def test_the_layer_has_gradients_with_and_without_kernels():
    problem = random_problem((150, 5, 4, 3))
    y = problem.family.decode(problem.y)
    found = []
    for compiled in (True, False):
        W, b = problem.W.clone().requires_grad_(), problem.b.clone().requires_grad_()
        solver = FisherScoring(compiled=compiled)
        z = pef.solve_latents(problem.family, y, W, b, solver=solver).value
        weight = torch.linspace(-1, 1, z.numel()).double().view_as(z)
        found.append(torch.autograd.grad((z * weight).sum(), (W, b)))
    for x, expected in zip(*found, strict=True):
        torch.testing.assert_close(x, expected)
