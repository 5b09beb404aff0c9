"""Gaussian tables with a learnt scale per column are factor analysis, and with one scale PCA."""

import math

import pytest
import torch
from sklearn.decomposition import FactorAnalysis

import pyro_expfam as pef

F = pef.families
EVIDENCE = pef.LaplaceEvidence()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def table(num_rows=300, num_features=8, latent_dim=2):
    torch.manual_seed(0)
    W, scale = torch.randn(num_features, latent_dim), torch.rand(num_features) + 0.5
    noise = scale * torch.randn(num_rows, num_features)
    return torch.randn(num_rows, latent_dim) @ W.mT + noise + torch.randn(num_features)


def fitted(family, y, latent_dim=2):
    """The mean, loading and variances of the noise in units of ``y`` at the maximum likelihood."""
    torch.manual_seed(0)
    settings = {"loading_scale": None, "intercept_scale": None}
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings)
    fit = pef.LaplaceGuide(model).fit(y, tol=1e-13)
    scale = model.family_scale.detach().expand(y.shape[1])
    return fit, scale * model.intercept.detach(), scale[:, None] * model.loading.detach(), scale**2


def log_likelihood(covariance, sample):
    """The mean log density of centred rows under a normal, given their sample covariance."""
    trace = torch.linalg.solve(covariance, sample).trace()
    return -0.5 * (len(sample) * math.log(2 * math.pi) + covariance.logdet() + trace)


def em_of_factor_analysis(sample, loading, variance, num_steps=3_000):
    """Expectation maximisation (Rubin and Thayer, 1982, equations 5 to 8)."""
    for _ in range(num_steps):
        covariance = loading @ loading.mT + variance.diag()
        beta = torch.linalg.solve(covariance, loading).mT
        moment = torch.eye(len(beta)) - beta @ loading + beta @ sample @ beta.mT
        loading = torch.linalg.solve(moment, beta @ sample).mT
        variance = (sample - loading @ beta @ sample).diagonal()
    return loading, variance


def test_a_scale_per_column_is_factor_analysis():
    y = table()
    fit, mean, W, variance = fitted(F.Gaussian("per column"), y)
    sample = torch.cov(y.mT, correction=0)
    found = W @ W.mT + variance.diag()
    torch.testing.assert_close(mean, y.mean(0), rtol=0.0, atol=1e-5)
    by_em, of_em = em_of_factor_analysis(sample, torch.randn(8, 2), torch.ones(8))
    torch.testing.assert_close(variance, of_em, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(W @ W.mT, by_em @ by_em.mT, rtol=1e-4, atol=1e-4)
    ours = float(log_likelihood(found, sample))
    assert -fit.objective / len(y) == pytest.approx(ours, rel=1e-8)
    other = FactorAnalysis(2, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(y.numpy())
    assert ours == pytest.approx(other.score(y.numpy()), rel=1e-6)
    torch.testing.assert_close(
        variance, torch.from_numpy(other.noise_variance_), rtol=1e-3, atol=1e-4
    )
    theirs = torch.from_numpy(other.components_.T @ other.components_)
    torch.testing.assert_close(W @ W.mT, theirs, rtol=1e-3, atol=1e-3)


def test_one_scale_is_the_closed_form_of_probabilistic_pca():
    y = table()
    _, mean, W, variance = fitted(F.Gaussian(), y)
    values, vectors = torch.linalg.eigh(torch.cov(y.mT, correction=0))
    noise, kept = values[:-2].mean(), values[-2:] - values[:-2].mean()
    # Tipping and Bishop (1999), equations 7 and 8.
    torch.testing.assert_close(variance, noise.expand(8), rtol=1e-5, atol=0.0)
    closed = vectors[:, -2:] * kept @ vectors[:, -2:].mT
    torch.testing.assert_close(W @ W.mT, closed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, y.mean(0), rtol=0.0, atol=1e-5)


def test_the_gradient_of_the_evidence_in_the_scale_is_exact():
    y, (W, b) = table(20, 5), (torch.randn(5, 2), torch.randn(5))

    def evidence(scale):
        return pef.log_evidence(F.Gaussian(scale), y, W, b)

    assert torch.autograd.gradcheck(evidence, (torch.rand(5) + 0.5).requires_grad_())
