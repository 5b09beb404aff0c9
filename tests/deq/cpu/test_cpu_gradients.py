"""The kernel's gradients are those of PyTorch operations."""

import pytest
import torch
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, root_gradients

pytest.importorskip("numba")

from pyro_expfam.deq.cpu import kernels
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.gradients import sum_over_rows

COMPILED = [
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
    pef.families.Binomial(total_count=torch.arange(1, 13)),
]
FIELDS = {
    "nothing": {},
    "offset by row": {"offset": (-1, 1)},
    "offset by feature": {"offset": (1, -1)},
    "offset and weights": {"offset": (-1, -1), "weights": (-1, -1)},
    "weights by row": {"weights": (-1, 1)},
}


def problem_and_root(family, num_rows, latent_dim, fields="nothing"):
    """A random problem, its root, and a gradient of the root."""
    table = random_table(family, num_rows, latent_dim=latent_dim, weight_scale=0.8)
    shape = table.y.shape
    given = {
        name: torch.randn([n if s == -1 else s for s, n in zip(sizes, shape, strict=True)]).double()
        for name, sizes in FIELDS[fields].items()
    }
    if "weights" in given:
        given["weights"] = given["weights"].clamp(min=0)
    problem = table.problem(**given)
    start = torch.zeros(num_rows, latent_dim).double()
    z = FisherScoring(compiled=False).solve(problem, start).value
    return problem, z, torch.randn_like(z)


def assert_same(found, expected, tol=1e-10):
    for x, y in zip(found, expected, strict=True):
        assert float((x - y).norm()) <= tol * float(y.norm())


def summed(problem, z, grad):
    """The gradients of loading, intercept and precision by PyTorch."""
    found = root_gradients.gradients(problem, z, grad, root_gradients.SUMMED)
    return [found[name] for name in ("W", "b", "precision")]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("family", COMPILED, ids=str)
def test_gradients_of_loading_intercept_and_precision(family, latent_dim, fields):
    problem, z, grad = problem_and_root(family, 2 * LANES + 44, latent_dim, fields)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    assert_same(found.values(), summed(problem, z, grad))


@pytest.mark.parametrize("num_rows", [1, LANES - 1, LANES, LANES + 1])
def test_the_last_rows_of_a_table_count_once(num_rows):
    problem, z, grad = problem_and_root(pef.families.Poisson(), num_rows, 2)
    found = sum_over_rows(problem, z, grad)
    assert found.resolved.all()
    assert_same([found.W, found.b], summed(problem, z, grad)[:2])
    information = problem.information(z)
    assert_same([found.u], [torch.linalg.solve(information, grad)])


def test_threads_share_the_rows():
    problem, z, grad = problem_and_root(pef.families.Bernoulli(), 30_000, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    found = sum_over_rows(problem, z, grad)
    torch.set_num_threads(threads)
    assert_same([found.W, found.b], summed(problem, z, grad)[:2])


def test_rows_beyond_the_digits_of_the_format_are_left_to_double_precision():
    family = pef.families.Poisson()
    W = torch.tensor([[6.0, 5.9], [0.5, -0.5]])
    y = torch.tensor([[3e5, 1.0], [2.0, 0.0]])
    problem = LatentProblem(family, y, W, torch.zeros(2), torch.tensor(1e-3))
    z = FisherScoring().solve(problem.double(), torch.zeros(2, 2).double()).value
    grad = torch.randn(2, 2)
    alone = sum_over_rows(problem, z.float(), grad)
    assert alone.resolved.tolist() == [False, True]
    assert (alone.u[0] == 0).all()
    found = kernels.gradients(problem, z.float(), grad, root_gradients.SUMMED)
    # A rounding of a natural parameter of 12 is a tenth of such a count.
    assert_same(found.values(), summed(problem, z.float(), grad), tol=3e-3)


@pytest.mark.parametrize("family", COMPILED, ids=str)
def test_the_layer_has_them_with_and_without_kernels(family):
    table = random_table(family, num_rows=200, latent_dim=2)
    found = []
    for compiled in (True, False):
        W, b = table.W.clone().requires_grad_(), table.b.clone().requires_grad_()
        precision = torch.tensor(1.3).double().requires_grad_()
        solver = FisherScoring(compiled=compiled)
        z = pef.solve_latents(family, table.y, W, b, precision, solver=solver).value
        weight = torch.linspace(-1, 1, z.numel()).double().view_as(z)
        found.append(torch.autograd.grad((z * weight).sum(), (W, b, precision)))
    assert_same(*found)
