"""Loading and intercept as draws of the Laplace guide."""

import pickle
import warnings

import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.nn import PyroModule, PyroParam
from quick_cases import in_turn
from torch.distributions.constraints import positive

import pyro_expfam as pef
from pyro_expfam.coefficients import covariance as covariance_module

POISSON = pef.families.Poisson()
NUM_ROWS, NUM_FEATURES = 120, 8


def counts():
    eta = torch.randn(NUM_ROWS, 2) @ torch.randn(2, NUM_FEATURES)
    return torch.poisson((0.6 * eta).exp())


def fitted_guide(y, family=POISSON, latent_dim=2, **settings):
    settings = {"intercept_scale": 2.0, **settings}
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    return model, guide


def draws_of(guide, y, num_draws=2_000):
    idata = pef.to_arviz(guide.model, guide, y, num_samples=num_draws, groups=["posterior"])
    return {name: torch.tensor(x.values[0]) for name, x in idata["posterior"].data_vars.items()}


def test_covariance_of_one_gaussian_latent_is_that_of_its_marginal_likelihood():
    torch.set_default_dtype(torch.float64)
    w, b = torch.tensor([1.0, -0.5, 0.8]), torch.tensor([0.2, 0.0, -0.4])
    y = torch.randn(400, 1) * w + b + torch.randn(400, 3)
    _, guide = fitted_guide(y, pef.families.Gaussian(1.0), latent_dim=1, loading_scale=1.0)
    guide(y)

    def objective(coefficients):
        loading, intercept = coefficients.view(3, 2).T
        law = torch.distributions.MultivariateNormal(
            intercept, torch.outer(loading, loading) + torch.eye(3)
        )
        penalty = 0.5 * (loading.square().sum() + intercept.square().sum() / 4)
        return penalty - law.log_prob(y).sum()

    mode = guide.coefficients.mode.flatten()
    gradient = torch.autograd.functional.jacobian(objective, mode)
    hessian = torch.autograd.functional.hessian(objective, mode)
    assert gradient @ torch.linalg.solve(hessian, gradient) <= 1e-4
    torch.testing.assert_close(guide.coefficients.covariance(), torch.linalg.inv(hessian))


def test_draws_have_the_moments_of_the_posterior():
    y = counts()
    _, guide = fitted_guide(y)
    draws = draws_of(guide, y)
    coefficients = torch.cat([draws["loading"], draws["intercept"][..., None]], -1).double()
    posterior = guide.coefficients
    deviation = posterior.variance().sqrt()
    assert ((coefficients.mean(0) - posterior.mean).abs() <= 0.12 * deviation).all()
    assert ((coefficients.std(0) / deviation - 1).abs() <= 0.1).all()
    correlation = torch.corrcoef(coefficients.flatten(1).T)
    exact = posterior.covariance() / torch.outer(deviation.flatten(), deviation.flatten())
    assert (correlation - exact).abs().max() <= 0.12


def test_no_rotation_of_the_latents_brings_a_draw_closer_to_the_mode():
    y = counts()
    _, guide = fitted_guide(y, latent_dim=3)
    W = draws_of(guide, y, 50)["loading"]
    product = W.mT @ guide.coefficients.mode[:, :-1].float()
    torch.testing.assert_close(product, product.mT, rtol=1e-4, atol=1e-4)


def test_latents_are_drawn_given_the_drawn_loading():
    y = counts()
    _, guide = fitted_guide(y)
    draws = draws_of(guide, y)
    z = draws["z"].double()
    W, b = (draws[name][:300].double() for name in ("loading", "intercept"))
    means = pef.solve_latents(POISSON, y.double(), W, b).value
    known = guide.posterior(y).variance
    expected = known + means.var(0)
    assert (z.var(0) / expected - 1).abs().mean() <= 0.08
    assert z.var(0).mean() > 1.005 * known.mean()


def test_predictive_and_pickling_keep_it():
    y = counts()
    model, guide = fitted_guide(y)
    guide(y)
    predicted = Predictive(model, guide=guide, num_samples=5, parallel=True)(y[:7])
    assert predicted["y"].shape == (5, 7, NUM_FEATURES)
    assert predicted["loading"].flatten(0, -3).shape == (5, NUM_FEATURES, 2)
    assert guide.latents(y[:7]).shape == (7, 2)


def test_the_parameters_of_the_shared_guide_stay():
    y = counts()
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 2, intercept_scale=None)
    trained = pef.DEQMAPGuide(model)
    trained.fit(y)
    before = trained.loading.clone(), trained.intercept.clone()
    guide = pef.LaplaceGuide(model, params=trained, globals="laplace")
    values = guide(y)
    torch.testing.assert_close((trained.loading, trained.intercept), before)
    # A point parameter stays a point.
    assert "intercept" not in values
    torch.testing.assert_close(guide.intercept, before[1])
    assert not torch.allclose(guide.loading, before[0])
    assert not guide.coefficients.variance()[:, -1].any()


def test_update_globals_takes_another_table():
    y = counts()
    _, guide = fitted_guide(y)
    guide(y)
    wide = guide.coefficients.variance().mean()
    guide(y[:10])
    assert guide.coefficients.variance().mean() == wide
    guide.update_globals(y[:40])
    assert guide.coefficients.variance().mean() > 1.5 * wide


def test_large_loadings_are_independent_by_feature(monkeypatch):
    y = counts()
    _, guide = fitted_guide(y)
    guide(y)
    whole = guide.coefficients.variance()
    monkeypatch.setattr(covariance_module, "LARGEST_DENSE", 1)
    guide.update_globals(y)
    by_feature = guide.coefficients
    assert by_feature.factor.shape == (NUM_FEATURES, 3, 3)
    ratio = by_feature.variance() / whole
    assert float(ratio.min()) > 0.5
    assert float(ratio.max()) < 1.5
    W = draws_of(guide, y, 20)["loading"]
    product = W.mT @ by_feature.mode[:, :-1].float()
    torch.testing.assert_close(product, product.mT, rtol=1e-4, atol=1e-4)


def test_a_scale_by_latent_is_taken_over():
    y = counts()
    scale = torch.tensor([1.0, 0.01])
    _, guide = fitted_guide_without_fit(y, loading_scale=PyroParam(scale, constraint=positive))
    guide(y)
    deviation = guide.coefficients.variance()[:, 1].sqrt()
    assert (deviation <= 0.0101).all()


def fitted_guide_without_fit(y, **settings):
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 2, intercept_scale=2.0, **settings)
    return model, pef.LaplaceGuide(model, globals="laplace")


def test_bad_input():
    y = counts()
    with pytest.raises(ValueError, match="globals must be 'laplace'"):
        pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, 2), globals="exact")

    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.counts = pef.ExpFamPCA(pef.families.Poisson(), 8, 2)

        def forward(self, y):
            return self.counts(y)

    with pytest.raises(ValueError, match="single block"):
        pef.LaplaceGuide(Two(), globals="laplace")
    pyro.clear_param_store()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, 2), globals="laplace")
    with pytest.raises(RuntimeError, match="no posterior of loading"):
        _ = guide.coefficients
    with pytest.raises(ValueError, match="whole table"):
        guide(y, num_rows=1_000)
    with pytest.raises(ValueError, match="got a guide without"):
        pef.LaplaceGuide(guide.model).update_globals(y)


def test_weights_of_entries_count_as_observations():
    y = torch.poisson(torch.full((30, 5), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 1, intercept_scale=1.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    variances = []
    for weights in (None, torch.ones(30, 5), torch.full((30, 5), 4.0)):
        guide.update_globals(y, weights=weights)
        variances.append(guide.coefficients.variance())
    torch.testing.assert_close(variances[1], variances[0])
    assert (variances[2] < variances[0]).all()


def log_density_of_draw(guide, y):
    """A draw of loading and intercept, and its log density by the guide's sites."""
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(y)
        trace.compute_log_prob()
    sites = ("loading", "intercept", "_coefficients_noise")
    total = sum(trace.nodes[name]["log_prob"].sum() for name in sites if name in trace.nodes)
    intercept = trace.nodes["intercept"]["value"] if "intercept" in trace.nodes else None
    return trace.nodes["loading"]["value"], intercept, float(total)


def exact_log_density(posterior, change):
    """The normal density of a change ``(d (l + 1),)`` in the subspace in which it varies."""
    covariance = posterior.covariance()
    values, vectors = torch.linalg.eigh(covariance)
    basis = vectors[:, values > 1e-9 * values[-1]]
    law = torch.distributions.MultivariateNormal(
        torch.zeros(basis.shape[1]), basis.T @ covariance @ basis
    )
    torch.testing.assert_close(basis @ (basis.T @ change), change)
    return basis.shape[1], float(law.log_prob(basis.T @ change))


@pytest.mark.parametrize("with_sandwich", [False, True], ids=["model", "sandwich"])
@pytest.mark.parametrize(
    ("largest_dense", "latent_dim", "intercept_scale"),
    in_turn([3_000, 1], [1, 3], [2.0, None]),
)
def test_the_log_density_of_a_draw_is_that_of_the_normal(
    largest_dense, latent_dim, intercept_scale, with_sandwich, monkeypatch
):
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(covariance_module, "LARGEST_DENSE", largest_dense)
    y = counts()
    settings = {"intercept_scale": intercept_scale, "latent_dim": latent_dim}
    _, guide = fitted_guide(y, **settings)
    guide = guide.with_sandwich() if with_sandwich else guide
    posterior = guide.coefficients
    for _ in range(3):
        loading, intercept, found = log_density_of_draw(guide, y)
        drawn = posterior.mean.clone()
        drawn[:, :-1] = loading
        if intercept is not None:
            drawn[:, -1] = intercept
        num_dims, expected = exact_log_density(posterior, (drawn - posterior.mean).flatten())
        rotations = latent_dim * (latent_dim - 1) // 2
        assert num_dims == NUM_FEATURES * (latent_dim + (intercept is not None)) - rotations
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_column_without_an_event_is_named_in_a_warning():
    y = torch.poisson(torch.full((40, 4), 2.0))
    y[:, 0] = 0
    model = pef.ExpFamPCA(POISSON, 4, 1, intercept_scale=100.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    with pytest.warns(UserWarning, match="too skew for a normal in 1 of 4 columns of y: 0. "):
        guide.fit(y)
    posterior = guide.coefficients
    assert posterior.unreliable_columns.tolist() == [True, False, False, False]
    # The exact mean of the column's intercept is -82, with a standard deviation of 60.
    assert -15 <= float(guide.median(y)["intercept"][0]) <= -5
    with pytest.warns(UserWarning, match="too skew") as seen:
        guide.update_globals(y)
    assert seen[0].filename == __file__


def test_a_column_of_a_frame_without_an_event_is_named_as_there():
    counts = torch.poisson(torch.full((40, 4), 2.0))
    counts[:, 2] = 0
    y = pd.DataFrame(counts.numpy(), columns=["oak", "ash", "yew", "elm"])
    model = pef.ExpFamPCA(POISSON, 4, 1, intercept_scale=100.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    with pytest.warns(UserWarning, match=r"too skew for a normal in 1 of 4 columns of y: yew\. "):
        guide.fit(y)
    with pytest.warns(UserWarning, match=r"columns of y: yew\. "):
        guide.update_globals(y)


def test_tables_that_determine_their_columns_give_no_warning():
    y = counts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, guide = fitted_guide(y)
    assert not guide.coefficients.unreliable_columns.any()


@pytest.mark.slow
def test_draws_with_the_sandwich_have_its_covariance_and_leave_the_guide_as_it_was():
    # Counts of too much spread: every entry is doubled.
    y = 2 * counts()
    _, guide = fitted_guide(y)
    before = guide.coefficients
    other = guide.with_sandwich()
    assert guide.coefficients is before
    sandwich = before.sandwich.variance().sqrt()
    assert (sandwich / before.variance().sqrt()).mean() >= 1.2
    draws = draws_of(other, y)
    drawn = torch.cat([draws["loading"], draws["intercept"][..., None]], -1).double()
    assert ((drawn.std(0) / sandwich - 1).abs() <= 0.1).all()
    assert ((drawn.mean(0) - before.mean).abs() <= 0.12 * sandwich).all()
    again = draws_of(guide, y)["intercept"].double().std(0)
    assert ((again / before.variance()[:, -1].sqrt() - 1).abs() <= 0.1).all()


def test_the_sandwich_wants_a_posterior_of_the_globals():
    y = counts()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, NUM_FEATURES, 2))
    guide.fit(y)
    with pytest.raises(RuntimeError, match="no posterior of loading and intercept"):
        guide.with_sandwich()


def test_the_second_order_widens_the_posterior_of_a_small_table():
    y = counts()[:40]
    _, guide = fitted_guide(y, latent_dim=1)
    first = guide.coefficients
    guide.update_globals(y, order=2)
    ratio = guide.coefficients.variance().sqrt() / first.variance().sqrt()
    assert 1.05 <= float(ratio[:, 0].mean()) <= 1.3
    assert torch.equal(guide.coefficients.mean, first.mean)
    guide.update_globals(y)
    torch.testing.assert_close(guide.coefficients.variance(), first.variance())
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        guide.update_globals(y, order=3)


def test_a_learnt_scale_leaves_the_posterior_in_the_format_of_the_model():
    y = torch.poisson(torch.full((30, 5), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2, intercept_scale=2.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.learn_loading_scale(y)
    assert guide(y)["loading"].dtype == torch.float32
    assert guide.latents(y).dtype == torch.float32


@pytest.mark.parametrize("again", ["fit", "update_globals", "learn_loading_scale"])
def test_a_guide_with_the_sandwich_keeps_to_it(again):
    y, other = 2 * counts(), 3 * counts()
    _, guide = fitted_guide(y)
    sandwich = pickle.loads(pickle.dumps(guide.with_sandwich()))
    getattr(guide, again)(other)
    getattr(sandwich, again)(other)
    expected = guide.coefficients.sandwich.variance()
    assert (expected / guide.coefficients.variance()).mean() >= 1.2
    torch.testing.assert_close(sandwich.coefficients.variance(), expected, rtol=0.02, atol=1e-4)
