"""Row effects: one more latent, whose loading is one in every column."""

import pyro
import pytest
import torch
from pyro.nn import PyroParam
from torch.distributions.constraints import positive

import pyro_expfam as pef
from pyro_expfam.guides.model_fit import fit_model

F = pef.families
NUM_ROWS, NUM_FEATURES = 120, 5


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


SETTINGS = {
    "random": {"row_effect": "random", "row_effect_scale": 0.8, "latent_precision": 2.0},
    "fixed": {"row_effect": "fixed"},
    "learnt": {"row_effect": "random", "latent_precision": 2.0},
}


def counts():
    x, effect = torch.randn(NUM_ROWS, 1), torch.randn(NUM_ROWS, 1)
    eta = torch.randn(NUM_ROWS, 2) @ torch.randn(2, NUM_FEATURES) / 2 + 0.4 * x + effect
    return torch.poisson(torch.exp(eta)), x


def fitted(y, x, kind, loss, fit):
    """Objective, linear predictors and scale of the effect after a fit."""
    settings = dict(SETTINGS[kind])
    if kind == "learnt":
        settings["row_effect_scale"] = PyroParam(torch.tensor(0.7), constraint=positive)
    pyro.clear_param_store()
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 2, num_covariates=1, **settings)
    guide = pef.LaplaceGuide(model) if loss else pef.DEQMAPGuide(model)
    end = fit(guide, loss)
    z = guide.latents(y, covariates=x).detach()
    torch.testing.assert_close(end.latents, z, rtol=0.0, atol=1e-5)
    W, C = guide.loading.detach(), guide.covariate_coefficients.detach()
    eta = z[:, :2] @ W.T + z[:, 2:] + x @ C.T + guide.intercept.detach()
    return torch.tensor(end.objective), eta, model.row_effect_scale.detach()


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("random", None),
        pytest.param("fixed", None, marks=pytest.mark.slow),
        pytest.param("random", pef.LaplaceEvidence(), marks=pytest.mark.slow),
        ("fixed", pef.LaplaceEvidence()),
        ("learnt", pef.LaplaceEvidence()),
    ],
)
def test_the_fit_by_columns_is_the_fit_of_any_model(kind, loss):
    y, x = counts()
    arguments = {"covariates": x}

    def by_columns(guide, loss):
        return guide.fit(y, **arguments, loss=loss, tol=1e-12)

    def of_any_model(guide, loss):
        limits = {"max_sweeps": 2_000, "tol": 1e-12, "max_time": None}
        return fit_model(guide, loss, (y,), arguments, callback=None, progress=False, **limits)

    found = fitted(y, x, kind, loss, by_columns)
    expected = fitted(y, x, kind, loss, of_any_model)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=0.0)
    torch.testing.assert_close(found[1], expected[1], rtol=0.0, atol=2e-4)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=0.0)


def test_batches_and_sparse_tables_have_the_fit_of_the_table():
    y, x = counts()

    def guide():
        pyro.clear_param_store()
        settings = SETTINGS["random"]
        model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 2, num_covariates=1, **settings)
        return pef.DEQMAPGuide(model)

    whole = guide().fit(y, covariates=x)
    parts = [(y[k : k + 40], None, None, None, x[k : k + 40]) for k in range(0, NUM_ROWS, 40)]
    in_batches = guide().fit(parts)
    sparse = guide().fit(y.to_sparse_csr(), covariates=x)
    for other in (in_batches, sparse):
        torch.testing.assert_close(other.objective, whole.objective, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(other.latents[:, 2:], whole.latents[:, 2:], rtol=0.0, atol=1e-2)


def test_a_checkpoint_knows_the_row_effect(tmp_path):
    y, _ = counts()
    path = tmp_path / "fit.checkpoint"

    def fit(scale, **limits):
        pyro.clear_param_store()
        settings = {"row_effect": "random", "row_effect_scale": scale}
        guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 2, **settings))
        return guide.fit(y, checkpoint=path, **limits)

    first = fit(0.8, callback=lambda sweep: sweep.number >= 3)
    second = fit(0.8)
    assert second.converged
    assert second.objective < first.objective
    with pytest.raises(ValueError, match="row effect"):
        fit(0.9)


def test_the_joint_estimate_refuses_a_learnt_scale():
    y, _ = counts()
    scale = PyroParam(torch.tensor(0.7), constraint=positive)
    settings = {"row_effect": "random", "row_effect_scale": scale}
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 2, **settings))
    with pytest.raises(ValueError, match="no bound, since both go to zero"):
        guide.fit(y)


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
    settings = {"row_effect": "random", "latent_scale": torch.ones(1)}
    model = pef.ExpFamPCA(F.Poisson(), 3, 1, **settings)
    with pytest.raises(ValueError, match="one latent_precision beside a row_effect"):
        pef.LaplaceGuide(model, globals="laplace")
