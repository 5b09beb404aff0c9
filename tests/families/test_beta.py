"""The beta family against SciPy."""

import pytest
import scipy.stats
import torch

from pyro_expfam.families import Beta

ETA = torch.linspace(-5, 5, 11, dtype=torch.float64)
Y = torch.tensor([1e-8, 0.02, 0.5, 0.9, 1 - 1e-7], dtype=torch.float64)[:, None]


def theirs(precision):
    mean = torch.sigmoid(ETA)
    return scipy.stats.beta((precision * mean).numpy(), (precision * (1 - mean)).numpy())


@pytest.mark.parametrize("precision", [0.5, 3.0, 300.0])
def test_densities_moments_and_entropies_are_those_of_scipy(precision):
    family, law = Beta(precision), theirs(precision)
    for found, expected in (
        (family.log_prob(Y, ETA), law.logpdf(Y.numpy())),
        (family.expected_y(ETA), law.mean()),
        (family.variance_of_y(ETA), law.var()),
        (family.entropy(ETA), law.entropy()),
    ):
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-8, atol=1e-8)


def test_divergences_are_integrals():
    family = Beta(6.0)
    eta, other = torch.tensor(0.3).double(), torch.tensor(1.0).double()
    y = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
    log_ratio = family.log_prob(y, eta) - family.log_prob(y, other)
    integral = torch.trapezoid(torch.exp(family.log_prob(y, eta)) * log_ratio, y)
    torch.testing.assert_close(family.kl_divergence(eta, other), integral, rtol=1e-5, atol=1e-7)


def test_the_loss_is_not_convex_and_says_so():
    family = Beta(5.0)
    assert not family.is_convex
    y = torch.tensor(0.999, dtype=torch.float64)
    assert float(family.curvature(ETA, y).min()) < 0
    assert bool((family.information(ETA, y) > 0).all())
