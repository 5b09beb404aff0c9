"""The likelihood of independent columns: closed forms, and what SciPy finds."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import pyro_expfam as pef
from pyro_expfam.checks.without_latents import likelihood_without_latents
from pyro_expfam.deq.layer import make_problem

F = pef.families


def problem_of(family, y, **entries):
    return make_problem(family, y, torch.randn(y.shape[1], 2).double(), torch.randn(5), **entries)


def test_counts_are_poisson_with_their_means():
    y = torch.poisson(torch.exp(torch.randn(40, 5))).double()
    expected = stats.poisson.logpmf(y, y.mean(0)).sum()
    found = likelihood_without_latents(problem_of(F.Poisson(), y))
    assert found == pytest.approx(expected, abs=1e-6)


def test_gaussians_have_their_means_and_the_scale_of_the_family():
    y = 3 + torch.randn(40, 5).double()
    expected = stats.norm.logpdf(y, y.mean(0), 0.7).sum()
    found = likelihood_without_latents(problem_of(F.Gaussian(0.7), y))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", [F.Gaussian(1e-3), F.LogNormal(1e-3)], ids=str)
def test_means_may_be_far_from_zero_in_units_of_the_noise(family):
    y = torch.exp(3 + torch.randn(40, 5).double() / 3)
    values = y if isinstance(family, F.Gaussian) else y.log()
    expected = stats.norm.logpdf(values, values.mean(0), 1e-3).sum()
    if isinstance(family, F.LogNormal):
        expected -= float(values.sum())
    found = likelihood_without_latents(problem_of(family, y))
    assert found == pytest.approx(expected, rel=1e-9)


def test_columns_of_zeros_are_certain():
    y = torch.zeros(40, 5).double()
    y[:, 1] = 1.0
    found = likelihood_without_latents(problem_of(F.Bernoulli(), y))
    assert found == pytest.approx(0.0, abs=1e-6)


def test_offsets_weights_and_masks_count():
    y = torch.poisson(torch.exp(torch.randn(40, 5))).double()
    offset, weights = torch.randn(40, 1).double(), 0.5 + torch.rand(40, 5).double()
    mask = torch.rand(40, 5) < 0.8
    mask[:, 4] = False
    found = likelihood_without_latents(
        problem_of(F.Poisson(), y, offset=offset, weights=weights, mask=mask)
    )
    use = (weights * mask).numpy()

    def loss(b, column):
        terms = stats.poisson.logpmf(y[:, column], np.exp(b + offset[:, 0].numpy()))
        return -(use[:, column] * terms).sum()

    best = [optimize.minimize_scalar(loss, args=(column,)).fun for column in range(5)]
    assert found == pytest.approx(-sum(best), abs=1e-6)
