"""What reads a fit with row effects: posterior, checks, statistics, explained deviance, encoder."""

import pytest
import torch
from pyro.nn import PyroParam
from torch.distributions.constraints import positive

import pyro_expfam as pef

F = pef.families
NUM_ROWS, NUM_FEATURES = 150, 5


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)


def gaussian_table():
    eta = torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES) + torch.randn(NUM_FEATURES)
    return eta + 1.5 * torch.randn(NUM_ROWS, 1) + torch.randn(NUM_ROWS, NUM_FEATURES)


def counts(num_rows=NUM_ROWS, num_features=NUM_FEATURES):
    z, effect = torch.randn(num_rows, 1), 0.7 * torch.randn(num_rows, 1)
    W = torch.linspace(-1, 1, num_features)
    return torch.poisson(torch.exp(z * W + effect + 0.5))


def learnt_scale():
    return PyroParam(torch.tensor(0.7), constraint=positive)


def test_the_posterior_of_a_gaussian_table_is_the_hessian_of_its_evidence():
    y = gaussian_table()
    model = pef.ExpFamPCA(
        F.Gaussian(1.0),
        NUM_FEATURES,
        1,
        latent_precision=2.0,
        loading_scale=1.0,
        intercept_scale=3.0,
        row_effect="random",
        row_effect_scale=1.5,
    )
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)

    def objective(coefficients):
        W, b = coefficients.view(NUM_FEATURES, 2).split(1, 1)
        covariance = W @ W.T / 2.0 + 1.5**2 + torch.eye(NUM_FEATURES)
        law = torch.distributions.MultivariateNormal(b[:, 0], covariance)
        of_priors = 0.5 * (W.square().sum() + b.square().sum() / 9)
        return of_priors - law.log_prob(y).sum()

    mode = guide.coefficients.mode.flatten()
    assert torch.autograd.functional.jacobian(objective, mode).abs().max() < 1e-3
    expected = torch.linalg.inv(torch.autograd.functional.hessian(objective, mode))
    torch.testing.assert_close(guide.coefficients.covariance(), expected, rtol=0.0, atol=1e-9)
    assert guide.coefficients.interval()[0].shape == (NUM_FEATURES, 2)
    assert guide(y)["loading"].shape == (NUM_FEATURES, 1)


def test_a_posterior_with_covariates_a_learnt_scale_and_a_learnt_size_is_kept_in_a_file(tmp_path):
    x = torch.randn(NUM_ROWS, 1)
    y = F.NegativeBinomial(1.0).sample(0.7 * torch.randn(NUM_ROWS, 1) + torch.ones(NUM_FEATURES))
    model = pef.ExpFamPCA(
        F.NegativeBinomial("shared"),
        NUM_FEATURES,
        1,
        num_covariates=1,
        row_effect="random",
        row_effect_scale=learnt_scale(),
    )
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y, covariates=x)
    assert guide.coefficients.mode.shape == (NUM_FEATURES, 3)
    drawn = guide(y, covariates=x)
    assert drawn["coefficients"].shape == (NUM_FEATURES, 1)
    assert drawn["family_size"].shape == ()
    idata = pef.to_arviz(model, guide, y, covariates=x, num_samples=5)
    assert idata["posterior"]["z"].dims[-1] == "latent_or_row_effect"
    guide.save(tmp_path / "fit.safetensors")
    loaded = pef.load(tmp_path / "fit.safetensors")
    torch.testing.assert_close(
        loaded.coefficients.covariance(), guide.coefficients.covariance(), rtol=0.0, atol=0.0
    )
    torch.testing.assert_close(loaded.model.row_effect_scale, model.row_effect_scale)


def test_rotations_leave_the_row_effect_where_it_is():
    y = counts(num_features=7)
    guide = pef.LaplaceGuide(
        pef.ExpFamPCA(F.Poisson(), 7, 2, row_effect="random"), globals="laplace"
    )
    guide.fit(y)
    posterior = guide.coefficients
    assert posterior.rotations.shape == (7 * 3, 1)
    turned = posterior.rotations[:, 0].view(7, 3)
    # A rotation moves the loading by W A with an antisymmetric A, and nothing else.
    W = posterior.mode[:, :2]
    expected = torch.stack([W[:, 1], -W[:, 0]], 1)
    expected = expected / expected.norm()
    torch.testing.assert_close(turned[:, :2].abs(), expected.abs())
    assert not turned[:, 2].any()
    rotated = pef.rotate(guide, num_draws=5)
    assert rotated.draws.shape == (5, 7, 2)
    assert pef.loading_test(guide).degrees_of_freedom.tolist() == [2] * 7


@pytest.mark.parametrize("kind", [pytest.param("random", marks=pytest.mark.slow), "fixed"])
def test_a_check_of_a_fit_finds_it_at_its_optimum(kind):
    y = counts(num_features=8)
    model = pef.ExpFamPCA(F.Poisson(), 8, 1, row_effect=kind)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    report = pef.check(model, guide, y, num_draws=50)
    assert f"with 1 latent and {kind} row effects" in str(report)
    assert not [x for x in report.problems if x.subject in ("training", "latents")]
    block = report.blocks[""]
    assert block.estimates.evidence.distance < 0.01
    assert block.latent_dim == 1
    assert 0.6 < block.estimates.spread < 1.2
    has_replicates = "tables of its own making" in str(report)
    assert has_replicates == (kind == "random")


def test_a_learnt_scale_is_one_degree_of_freedom():
    y = counts()
    flat = {"loading_scale": None, "intercept_scale": None}

    def fitted(**settings):
        guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, **flat, **settings))
        guide.fit(y)
        return guide

    none = fitted()
    known = fitted(row_effect="random", row_effect_scale=0.7)
    learnt = fitted(row_effect="random", row_effect_scale=learnt_scale())
    found = [pef.fit_statistics(guide, y) for guide in (none, known, learnt)]
    assert [x.degrees_of_freedom for x in found] == [10, 10, 11]
    assert found[2].log_likelihood > found[1].log_likelihood > found[0].log_likelihood
    ratio = pef.likelihood_ratio(none, learnt, y)
    assert ratio.p_value < 1e-3
    assert any("row effects of a learnt standard deviation" in x for x in ratio.caveats)
    with pytest.raises(ValueError, match="without fixed row effects"):
        pef.fit_statistics(fitted(row_effect="fixed"), y)


def test_row_effects_are_a_part_of_the_explained_deviance():
    y = gaussian_table()
    model = pef.ExpFamPCA(F.Gaussian(1.0), NUM_FEATURES, 1, row_effect="random")
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    found = pef.explained_deviance(guide, y)
    assert found.total == pytest.approx(pef.deviance_explained(guide, y))
    assert found.by_component.shape == (2,)
    assert float(found.by_component.sum()) == pytest.approx(found.total)
    assert list(found.table.columns) == ["explained", "component 0", "row effect"]
    # Of a Gaussian table, what a term explains is the square that it adds to the residuals.
    z, W = guide.latents(y).detach(), guide.loading.detach()
    residual = y - guide.intercept.detach() - z[:, :1] @ W.T - z[:, 1:]
    square = residual.square().sum()
    own = [(residual + z[:, :1] @ W.T).square().sum(), (residual + z[:, 1:]).square().sum()]
    back = torch.stack(own) - square
    torch.testing.assert_close(found.by_component / found.total, back / back.sum())


def test_an_encoder_has_the_latents_of_its_guide():
    y, x = counts(), torch.randn(NUM_ROWS, 1)
    model = pef.ExpFamPCA(
        F.Poisson(), NUM_FEATURES, 1, num_covariates=1, row_effect="random", row_effect_scale=0.5
    )
    guide = pef.LaplaceGuide(model)
    guide.fit(y, covariates=x)
    net = pef.DEQEncoder(guide)
    found = net(y, covariates=x)
    torch.testing.assert_close(found, guide.latents(y, covariates=x))
    net(y, covariates=x).square().sum().backward()
    assert bool(net.weight.grad.isfinite().all())
    assert net.weight.shape == (NUM_FEATURES, 1)
    torch.testing.assert_close(net.to_guide().latents(y, covariates=x), found)
    rows = pef.DEQEncoder(guide, basis="orthogonal")(y, covariates=x)
    eta = found @ torch.cat([guide.loading, torch.ones(NUM_FEATURES, 1)], 1).T
    torch.testing.assert_close(torch.cdist(rows, rows), torch.cdist(eta, eta))


def test_rotations_and_predictions_take_row_effects():
    y = counts(40)
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 2, row_effect="random", missing="nan")
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    z = guide.latents(y).detach()
    turned = pef.rotate(guide, num_draws=2).latents(z)
    torch.testing.assert_close(turned[:, 2], z[:, 2])
    torch.testing.assert_close(turned.square().sum(1), z.square().sum(1))
    holes = y.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(torch.nan).double())
    assert bool(pef.impute(guide, holes, num_draws=20).filled.isfinite().all())
    assert pef.predict(guide, y, [0], num_draws=20).mean.shape == (40, 1)
    with pytest.raises(ValueError, match="without row effects"):
        pef.item_response(guide)


def test_fixed_effects_want_priors_for_a_posterior():
    flat = {"loading_scale": None, "intercept_scale": None}
    model = pef.ExpFamPCA(F.Poisson(), 3, 1, row_effect="fixed", **flat)
    with pytest.raises(ValueError, match="what all intercepts, and all loadings"):
        pef.LaplaceGuide(model, globals="laplace")
