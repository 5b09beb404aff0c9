"""Weibull, Pareto and log-normal laws against SciPy, and the layer's view of them."""

import numpy as np
import pytest
import scipy.stats
import torch

import pyro_expfam as pef
from pyro_expfam.families import Exponential, Gaussian, LogNormal, Pareto, Weibull

ETA = torch.linspace(-6, 2.5, 18, dtype=torch.float64)
RATIOS = torch.tensor([1e-6, 0.03, 0.7, 1.0, 1.2, 40.0], dtype=torch.float64)[:, None]

WEIBULL = [
    (Weibull(k), lambda eta, k=k: scipy.stats.weibull_min(k, scale=(eta / k).exp()))
    for k in (0.4, 1.0, 3.0)
]
PARETO = [
    (Pareto(m), lambda eta, m=m: scipy.stats.pareto((-eta).exp(), scale=m)) for m in (0.1, 5.0)
]
LOG_NORMAL = [
    (LogNormal(s), lambda eta, s=s: scipy.stats.lognorm(s, scale=(s * eta).exp()))
    for s in (0.2, 1.5)
]
CASES = pytest.mark.parametrize(
    ("family", "theirs"),
    [*WEIBULL, *PARETO, *LOG_NORMAL],
    ids=lambda x: repr(x) if hasattr(x, "loss") else "",
)


def observations(family):
    return family.inverse(RATIOS * torch.ones_like(ETA))


@CASES
def test_log_densities_are_those_of_scipy(family, theirs):
    y = observations(family)
    with np.errstate(divide="ignore"):
        expected = torch.as_tensor(theirs(ETA).logpdf(y.numpy()))
    # Densities of SciPy may underflow.
    assert expected.isfinite().double().mean() > 0.9
    expected = torch.where(expected.isfinite(), expected, family.log_prob(y, ETA))
    torch.testing.assert_close(family.log_prob(y, ETA), expected, rtol=1e-9, atol=1e-9)


@CASES
def test_moments_and_entropies_are_those_of_scipy(family, theirs):
    law = theirs(ETA)
    for found, expected in (
        (family.expected_y(ETA), law.mean()),
        (family.variance_of_y(ETA), law.var()),
        (family.entropy(ETA), law.entropy()),
    ):
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-7, atol=1e-9)


@CASES
def test_divergences_are_integrals(family, theirs):
    grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    eta, other = (
        torch.tensor([-1.0], dtype=torch.float64),
        torch.tensor([-0.4], dtype=torch.float64),
    )
    y = torch.as_tensor(theirs(eta).ppf(grid[:, None].numpy()))
    integral = (family.log_prob(y, eta) - family.log_prob(y, other)).mean(0)
    torch.testing.assert_close(family.kl_divergence(eta, other), integral, rtol=0.02, atol=1e-3)


def test_losses_are_those_of_the_transformed_observations():
    y = 2 + RATIOS.flatten()[:, None]
    exponential, zeros = Exponential(), torch.zeros(())
    for family, transformed in (
        (Weibull(3.0), y**3),
        (Pareto(2.0), torch.log(y / 2)),
    ):
        torch.testing.assert_close(family.loss(ETA, y), exponential.loss(ETA, transformed))
    log_normal = LogNormal(0.5)
    assert log_normal.entries(y).statistic is not None
    torch.testing.assert_close(log_normal.loss(ETA, y), Gaussian(0.5).loss(ETA, y.log()) + zeros)


@pytest.mark.parametrize("make", [Weibull, Pareto, LogNormal])
@pytest.mark.parametrize(
    ("value", "message"), [(0, "positive and finite, got 0"), ([1.0, -2.0], "got -2 at position")]
)
def test_parameters_that_are_not_positive_are_refused(make, value, message):
    with pytest.raises(ValueError, match=message):
        make(value)


@pytest.mark.parametrize("y", [50.0, 0.1])
def test_powers_that_single_precision_cannot_hold_are_named(y):
    table = torch.ones(4, 2)
    table[2, 1] = y
    W, b = torch.ones(2, 1), torch.zeros(2)
    with pytest.raises(ValueError, match=rf"float32 can hold, got {y:g} \*\* 60: divide"):
        pef.solve_latents(Weibull(60.0), table, W, b)
    mask = table == 1
    assert bool(pef.solve_latents(Weibull(60.0), table, W, b, mask=mask).converged.all())
    assert bool(pef.solve_latents(Weibull(60.0), table, W.double(), b.double()).converged.all())
