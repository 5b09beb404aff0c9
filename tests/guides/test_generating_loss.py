"""Fits of simulated tables lose as much as the parameters that made them."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam import families as F

FAMILIES = [
    F.Bernoulli(),
    F.Binomial(10),
    F.ContinuousBernoulli(),
    F.Gamma(2.0),
    F.Gaussian(1.0),
    F.NegativeBinomial(3.0),
    F.Pareto(1.0),
    F.Poisson(),
    F.Weibull(2.0),
]
"""The families of ExpFamilyPCA.jl."""


def relative_losses(family, num_rows, num_features):
    """The mean Bregman loss of the joint fit, and of a fit of intercepts, over the true one's.

    Half a deviance is the Bregman divergence of an observation from its mean.
    """
    torch.manual_seed(0)
    z, loading = torch.randn(num_rows, 1), 0.7 * torch.randn(num_features, 1)
    eta = z @ loading.T + 0.3 * torch.randn(num_features)
    y = family.sample(eta)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, num_features, 1))
    assert guide.fit(y, progress=False).converged
    fitted = guide.latents(y) @ guide.loading.T + guide.intercept
    own = family.deviance(y, eta).double().mean()
    plain = family.deviance(y, fitted.mean(0).expand_as(eta)).double().mean()
    return float(family.deviance(y, fitted).double().mean() / own), float(plain / own)


@pytest.mark.parametrize("family", [F.Bernoulli(), F.Poisson()], ids=str)
def test_the_joint_fit_loses_as_much_as_the_truth(family):
    fitted, plain = relative_losses(family, 500, 250)
    assert plain > 1.02
    assert fitted == pytest.approx(1, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_joint_fit_of_a_large_table_loses_as_much_as_the_truth(family):
    fitted, plain = relative_losses(family, 1500, 500)
    assert plain > 1.02
    assert fitted == pytest.approx(1, abs=0.01)
