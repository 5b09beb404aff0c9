"""Likelihood statistics against factor analysis, and the size of the likelihood-ratio test."""

import math

import pytest
import torch
from scipy import stats

import pyro_expfam as pef

F = pef.families
FLAT = {"loading_scale": None, "intercept_scale": None}


def table(num_rows=250, num_features=5, latent_dim=1, seed=0):
    torch.manual_seed(seed)
    W = 0.7 * torch.randn(num_features, latent_dim).double()
    return torch.poisson(torch.exp(1 + torch.randn(num_rows, latent_dim).double() @ W.mT))


def fitted(y, family, latent_dim=1, **settings):
    torch.manual_seed(0)
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **{**FLAT, **settings}).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(y, progress=False)
    return guide


def test_a_gaussian_fit_has_the_likelihood_of_factor_analysis():
    torch.manual_seed(1)
    W = torch.randn(6, 2).double()
    y = torch.randn(300, 2).double() @ W.mT + torch.randn(300, 6).double()
    found = pef.fit_statistics(fitted(y, F.Gaussian("per column"), 2), y)
    analysis = pytest.importorskip("sklearn.decomposition").FactorAnalysis(
        2, tol=1e-10, max_iter=20_000, svd_method="lapack"
    )
    expected = 300 * analysis.fit(y.numpy()).score(y.numpy())
    assert found.log_likelihood == pytest.approx(expected, rel=1e-6)
    assert found.degrees_of_freedom == 2 * 6 - 1 + 6 + 6
    assert found.aic == pytest.approx(2 * 23 - 2 * expected, rel=1e-6)
    assert found.bic == pytest.approx(23 * math.log(300) - 2 * expected, rel=1e-6)
    assert (found.num_rows, found.num_entries) == (300, 1800)


def test_missing_entries_are_not_counted_and_the_line_says_all():
    y = table()
    mask = torch.rand(y.shape) < 0.8
    guide = fitted(y, F.Poisson())
    found = pef.fit_statistics(guide, y, mask=mask)
    assert found.num_entries == int(mask.sum())
    assert found.log_likelihood == pytest.approx(guide.log_evidence(y, mask=mask).sum().item())
    assert f"on 10 degrees of freedom, AIC {found.aic:,.2f}" in str(found)
    exact = pef.fit_statistics(guide, y, mask=mask, nodes=31)
    assert exact.log_likelihood != found.log_likelihood
    assert exact.log_likelihood == pytest.approx(found.log_likelihood, abs=10)


def test_categories_count_one_level_less():
    torch.manual_seed(0)
    y = torch.randint(0, 3, (200, 4)).double()
    model = pef.ExpFamPCA(F.Categorical(3), 4, 1).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(y, progress=False)
    found = pef.fit_statistics(guide, y)
    assert found.degrees_of_freedom == 16
    assert found.num_entries == 800


def test_the_ratio_is_chi_squared_where_it_should_be():
    statistics = []
    for seed in range(25):
        torch.manual_seed(100 + seed)
        z = torch.randn(250, 1).double()
        y = F.Gaussian(1.0).sample(z @ torch.ones(1, 4).double())
        fits = [fitted(y, family) for family in (F.Gaussian(), F.Gaussian("per column"))]
        found = pef.likelihood_ratio(*fits, y)
        assert found.degrees_of_freedom == 3
        assert found.caveats == ()
        assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, 3), rel=1e-9)
        statistics.append(found.statistic)
    assert stats.kstest(statistics, stats.chi2(3).cdf).pvalue > 0.01


def test_caveats_are_said():
    y = table(latent_dim=2)
    one, two = fitted(y, F.Poisson()), fitted(y, F.Poisson(), 2)
    found = pef.likelihood_ratio(one, two, y)
    assert found.degrees_of_freedom == 4
    assert len(found.caveats) == 1
    assert "boundary" in str(found)
    assert "not chi-squared" in str(found)
    other = pef.likelihood_ratio(one, fitted(y, F.NegativeBinomial("shared")), y)
    assert "families differ" in other.caveats[0]
    penalised = fitted(y, F.Poisson(), loading_scale=1.0)
    assert "have priors" in pef.likelihood_ratio(penalised, two, y).caveats[-1]


def test_bad_input():
    y = table()
    one, two = fitted(y, F.Poisson()), fitted(y, F.Poisson(), 2)
    with pytest.raises(ValueError, match=r"large must have more degrees of freedom.*swap"):
        pef.likelihood_ratio(two, one, y)
    with pytest.raises(ValueError, match="fits of one table, got 4 and 5 columns"):
        pef.likelihood_ratio(fitted(y[:, :4], F.Poisson()), one, y)
    with pytest.raises(ValueError, match="small must be trained"):
        pef.likelihood_ratio(pef.LaplaceGuide(one.model.__class__(F.Poisson(), 5, 1)), two, y)
    with pytest.raises(TypeError, match="guide of this package"):
        pef.fit_statistics(one.model, y)
