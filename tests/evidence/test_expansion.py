"""The largest posterior variance of a row."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_problem
from pyro_expfam.evidence.expansion import widest_variance


@pytest.mark.parametrize("latent_dim", [1, 5, 20])
def test_a_saddle_has_no_variance_and_other_rows_have_the_largest_eigenvalue(latent_dim):
    family = pef.families.ZeroInflatedPoisson(0.3)
    size = latent_dim + 3
    W, b = 1.5 * torch.randn(size, latent_dim).double() / latent_dim**0.5, torch.ones(size).double()
    y, z = torch.zeros(60, size).double(), torch.randn(60, latent_dim).double()
    # Rows of zeros alone are at a saddle, or near one, more often than not.
    y[:30] = family.sample(z[:30] @ W.T + b)
    problem = make_problem(family, y, W, b)
    of_rows = [problem.rows(slice(k, k + 1)) for k in range(len(z))]
    by_autograd = torch.stack(
        [
            torch.autograd.functional.hessian(lambda at, row=row: row.objective(at[None])[0], at)
            for row, at in zip(of_rows, z, strict=True)
        ]
    )
    is_saddle = torch.linalg.eigvalsh(by_autograd)[:, 0] <= 0
    assert 0 < int(is_saddle.sum()) < len(z)
    found = widest_variance(problem, z)
    assert found.isnan().equal(is_saddle)
    expected = torch.linalg.eigvalsh(by_autograd[~is_saddle].inverse())[:, -1]
    torch.testing.assert_close(found[~is_saddle], expected)


def test_rows_that_overflow_leave_the_others_as_they_are():
    W, b = torch.randn(6, 3).double(), torch.zeros(6).double()
    y, z = torch.poisson(torch.ones(4, 6)).double(), torch.randn(4, 3).double()
    z[1] = 1e6
    problem = make_problem(pef.families.Poisson(), y, W, b)
    found, alone = widest_variance(problem, z), widest_variance(problem.rows(slice(2, 4)), z[2:])
    assert bool(found[1].isnan())
    torch.testing.assert_close(found[2:], alone)
