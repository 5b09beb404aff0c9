"""Products of statistics and loading as the kernel computes them."""

import pytest
import torch
from random_tables import random_table

import pyro_expfam as pef

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.any_table import as_cpu_table, linear_part

WEIGHTS = {"none": None, "all": (50, 12), "by row": (50, 1), "by feature": (1, 12), "one": (1, 1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("shape", WEIGHTS)
def test_products_of_weighted_statistics(shape, latent_dim, dtype):
    table = random_table(pef.families.Poisson(), 50, 12, latent_dim, dtype=dtype)
    size = WEIGHTS[shape]
    weights = None if size is None else torch.rand(size, dtype=dtype)
    problem = table.problem(weights=weights)
    found = torch.from_numpy(linear_part(as_cpu_table(problem), latent_dim))
    double = problem.double()
    expected = double.weighted(double.statistic) @ double.W
    tol = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), expected, rtol=tol, atol=tol * 50)


def test_large_offsets_with_a_very_small_intercept():
    """An offset beyond the exponential's range, which the intercepts undo."""
    family, offset = pef.families.Poisson(), torch.full((30, 1), 100.0)
    table = random_table(family, 30, 5, dtype=torch.float32)
    plain = pef.solve_latents(family, table.y, table.W, table.b).value
    shifted = pef.solve_latents(family, table.y, table.W, table.b - 100, offset=offset).value
    torch.testing.assert_close(shifted, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_rows", [1, 30])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4,), (1, 4)])
def test_one_total_count_may_have_any_shape(num_rows, shape):
    y, W, b = torch.ones(num_rows, 4), torch.ones(4, 1), torch.zeros(4)
    found = pef.solve_latents(pef.families.Binomial(3 * torch.ones(shape)), y, W, b).value
    torch.testing.assert_close(found, pef.solve_latents(pef.families.Binomial(3), y, W, b).value)


F = pef.families


@pytest.mark.parametrize(
    "make",
    [
        F.NegativeBinomial,
        F.Gamma,
        F.Binomial,
        lambda size: F.Binomial(size, link=pef.links.Probit()),
    ],
    ids=["negative binomial", "gamma", "binomial", "probit"],
)
def test_a_number_and_a_number_per_column_have_the_same_kernels(make):
    """A kernel is compiled for every type of a table, for seconds."""
    one, each = (
        as_cpu_table(random_table(make(size), 30, 5).problem())
        for size in (2, torch.arange(1.0, 6.0))
    )
    assert numba.typeof(one) == numba.typeof(each)
