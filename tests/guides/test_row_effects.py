"""Row effects: one more latent, whose loading is one in every column."""

import pytest
import torch
from pyro.nn import PyroParam
from torch.distributions.constraints import positive

import pyro_expfam as pef

F = pef.families
NUM_ROWS, NUM_FEATURES = 150, 6


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)


def gaussian_table(scale=1.5):
    effect = scale * torch.randn(NUM_ROWS, 1)
    eta = torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES) + torch.randn(NUM_FEATURES)
    return eta + effect + torch.randn(NUM_ROWS, NUM_FEATURES)


def marginal(guide, scale):
    W, b = guide.loading, guide.intercept
    covariance = W @ W.T / 2.0 + scale**2 + torch.eye(NUM_FEATURES)
    return torch.distributions.MultivariateNormal(b, covariance)


def test_the_evidence_of_random_effects_in_gaussian_rows_is_in_closed_form():
    y = gaussian_table()
    model = pef.ExpFamPCA(
        F.Gaussian(1.0), NUM_FEATURES, 1, 2.0, row_effect="random", row_effect_scale=1.5
    )
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    torch.testing.assert_close(guide.log_evidence(y), marginal(guide, 1.5).log_prob(y))
    posterior = guide.posterior(y)
    assert posterior.mean.shape == (NUM_ROWS, 2)
    assert guide.loading.shape == (NUM_FEATURES, 1)


def test_a_learnt_scale_is_where_the_evidence_is_greatest():
    y = gaussian_table()
    scale = PyroParam(torch.tensor(0.5), constraint=positive)
    model = pef.ExpFamPCA(
        F.Gaussian(1.0), NUM_FEATURES, 1, 2.0, row_effect="random", row_effect_scale=scale
    )
    guide = pef.LaplaceGuide(model)
    assert guide.fit(y, tol=1e-11).converged
    found = model.row_effect_scale.item()
    at = torch.tensor(found, requires_grad=True)
    (slope,) = torch.autograd.grad(marginal(guide, at).log_prob(y).sum(), at)
    assert abs(float(slope)) < 0.05
    assert 1.0 < found < 2.0


def test_fixed_effects_of_counts_are_a_multinomial_given_its_total():
    W, b = torch.randn(NUM_FEATURES, 2) / 2, torch.randn(NUM_FEATURES) / 2
    y = torch.poisson(torch.exp(1 + torch.randn(NUM_ROWS, 2) @ W.T + b))
    y = y[y.sum(1) > 0]
    model = pef.ExpFamPCA(
        F.Poisson(), NUM_FEATURES, 2, loading_scale=None, intercept_scale=None, row_effect="fixed"
    )
    model.loading, model.intercept = W, b
    guide = pef.LaplaceGuide(model)
    guide(y)
    latents = guide.latents(y).detach()
    expected = pef.solve_latents(F.Multinomial(), y, W, b, 1.0).value
    torch.testing.assert_close(latents[:, :2], expected, rtol=0.0, atol=1e-5)
    means = torch.exp(latents[:, :2] @ W.T + b + latents[:, 2:])
    torch.testing.assert_close(means.sum(1), y.sum(1), rtol=1e-4, atol=0.0)


def test_a_fit_with_row_effects_and_covariates_finds_both(tmp_path):
    x, effect = torch.randn(NUM_ROWS, 1), torch.randn(NUM_ROWS, 1)
    C = torch.linspace(-1, 1, NUM_FEATURES)[:, None]
    y = torch.poisson(torch.exp(1 + x @ C.T + effect))
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=1, row_effect="random")
    guide = pef.LaplaceGuide(model)
    guide.fit(y, covariates=x)
    torch.testing.assert_close(guide.covariate_coefficients, C, rtol=0.0, atol=0.35)
    found = guide.latents(y, covariates=x)[:, 1:].detach()
    assert torch.corrcoef(torch.cat([found, effect], 1).T)[0, 1] > 0.9
    guide.save(tmp_path / "fit.safetensors")
    loaded = pef.load(tmp_path / "fit.safetensors")
    torch.testing.assert_close(loaded.latents(y, covariates=x)[:, 1:], found)
    idata = pef.to_arviz(model, guide, y, covariates=x, num_samples=10)
    assert idata["posterior"]["z"].shape == (1, 10, NUM_ROWS, 2)
    assert 0 < pef.deviance_explained(guide, y, covariates=x) < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"row_effect": "some"}, "row_effect must be 'random', 'fixed' or None"),
        ({"row_effect_scale": 2.0}, "row_effect_scale must be left out"),
        ({"row_effect": "fixed", "row_effect_scale": 2.0}, "row_effect_scale must be left out"),
        ({"row_effect": "random", "row_effect_scale": -1.0}, "row_effect_scale must be a positive"),
        ({"row_effect": "random", "latent_precision": torch.eye(1)}, "a precision matrix"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pef.ExpFamPCA(F.Poisson(), 3, 1, **settings)


def test_what_cannot_take_row_effects_refuses_them():
    with pytest.raises(ValueError, match="None for categories and compositions"):
        pef.ExpFamPCA(F.Categorical(3), 2, 1, row_effect="random")
    y = torch.poisson(torch.ones(20, 3))
    model = pef.ExpFamPCA(F.Poisson(), 3, 1, row_effect="random")
    with pytest.raises(ValueError, match="no row_effect for a posterior of loading"):
        pef.LaplaceGuide(model, globals="laplace")
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    with pytest.raises(ValueError, match="no row_effect for a check"):
        pef.check(model, guide, y)
    for function in (pef.explained_deviance, pef.fit_statistics):
        with pytest.raises(ValueError, match="without a row_effect"):
            function(guide, y)
    for function in (pef.rotate, pef.DEQEncoder):
        with pytest.raises(ValueError, match=r"one (known )?precision"):
            function(guide)
