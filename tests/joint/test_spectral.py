"""Starting coefficients: known in closed form for Gaussian tables, and the same in every run."""

import torch

import pyro_expfam as pef
from pyro_expfam.joint import JointProblem, TableInMemory
from pyro_expfam.joint.spectral import spectral_start

SMALLEST_LOADING = 0.1


def problem_of(family, y):
    table = TableInMemory(family, y.shape[1], y, y)
    return JointProblem(table, torch.ones((), dtype=y.dtype), 1.0, 0.0)


def with_covariance(eigenvalues, num_rows):
    """Observations with exactly these eigenvalues of their covariance, its axes and their mean."""
    size = len(eigenvalues)
    scores, _ = torch.linalg.qr(torch.randn(num_rows, size + 1).double().index_fill_(1, *FIRST))
    axes, _ = torch.linalg.qr(torch.randn(size, size).double())
    mean = torch.randn(size).double()
    deviations = torch.tensor(eigenvalues).double().sqrt()
    return num_rows**0.5 * scores[:, 1:] * deviations @ axes.T + mean, axes, mean


FIRST = torch.tensor([0]), 1.0
"""The first column of constants, to which all others are made orthogonal."""


def test_gaussian_tables_start_at_the_maximum_of_their_likelihood():
    """Tipping and Bishop (1999): the root of what an eigenvalue has beyond the noise's variance."""
    y, axes, mean = with_covariance([1.6, 1.25, 0.9, 0.6, 0.3], num_rows=400)
    start = spectral_start(problem_of(pef.families.Gaussian(1.0), y), 3)
    found = start[:, :3] @ start[:, :3].T
    lengths = torch.tensor([0.6**0.5, 0.5, SMALLEST_LOADING]).double()
    loading = axes[:, :3] * lengths
    torch.testing.assert_close(found, loading @ loading.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(start[:, 3], mean, atol=0.1 / 400**0.5, rtol=0)


def test_a_start_needs_no_seed_and_leaves_the_state_of_the_generator_alone():
    problem = problem_of(pef.families.Poisson(), torch.poisson(torch.ones(40, 30)).double())
    before = torch.get_rng_state()
    first = spectral_start(problem, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(spectral_start(problem, 2), first)
