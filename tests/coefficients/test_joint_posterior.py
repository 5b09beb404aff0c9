"""Learnt parameters of a family, drawn together with loading and intercept."""

import copy

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroParam
from pyro.optim import Adam
from torch.distributions import constraints

import pyro_expfam as pef
from pyro_expfam.coefficients.parameter_posterior import objective_with_parameters
from pyro_expfam.deq.layer import make_solver
from pyro_expfam.guides.coefficient_draws import parameters_to_draw

F = pef.families


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def counts(num_rows=120, num_features=4, latent_dim=1):
    eta = torch.randn(num_rows, latent_dim) @ (0.7 * torch.randn(latent_dim, num_features)) + 1.0
    return F.NegativeBinomial(2.0).sample(eta)


def fitted(family, y, latent_dim=1, **settings):
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y, progress=False)
    return model, guide


def hessian_of_evidence(model, guide, y):
    """By central differences of the gradient in loading, intercept and parameters by column."""
    problem = guide.block()._problem(y).distinct()
    every = torch.ones(model.latent_dim + 1, dtype=torch.bool)
    parameters = tuple(x._replace(is_unit=False) for x in parameters_to_draw(model))
    precision = model.coefficient_precision()
    objective = objective_with_parameters(problem, precision, every, parameters)
    values = {x.name: guide.median(y)[f"family_{x.name}"] for x in parameters}
    place = objective.coefficients_of(guide.coefficients.mode, values)

    def gradient(at):
        start = torch.zeros(len(y), model.latent_dim)
        return objective.columns(at, start, make_solver()).gradient.flatten()

    steps = 1e-4 * torch.eye(place.numel()).view(-1, *place.shape)
    return torch.stack([(gradient(place + x) - gradient(place - x)) / 2e-4 for x in steps])


@pytest.mark.parametrize("law", ["sizes", "scales"])
def test_draws_have_the_inverse_hessian_of_the_evidence_in_both(law):
    if law == "sizes":
        y = counts(num_features=5)
        model, guide = fitted(F.NegativeBinomial(), y)
    else:
        y = torch.randn(200, 1) @ (1.0 + torch.rand(1, 5)) + torch.randn(200, 5)
        own = {"scale": PyroParam(torch.ones(5), constraint=constraints.positive)}
        model, guide = fitted(F.Gaussian(), y, loading_scale=3.0, family_parameters=own)
    covariance = torch.linalg.inv(hessian_of_evidence(model, guide, y)).view(5, 3, 5, 3)
    posterior = guide.coefficients
    of_theta = covariance[:, :2, :, :2].reshape(10, 10)
    torch.testing.assert_close(posterior.covariance(), of_theta, rtol=2e-3, atol=1e-6)
    found = posterior.parameters.covariance
    torch.testing.assert_close(found, covariance[:, 2, :, 2], rtol=2e-3, atol=1e-6)
    noise = torch.eye(posterior.noise_dim)
    (name,) = (x.name for x in posterior.parameters.parameters)
    change = posterior.parameters_of(noise)[name].log() - posterior.parameters.mode
    of_both = (posterior.draw(noise) - posterior.mean).flatten(1).mT @ change
    expected = covariance[:, :2, :, 2].reshape(10, 5)
    torch.testing.assert_close(of_both, expected, rtol=2e-3, atol=1e-5)


def test_rotations_are_left_out():
    _, guide = fitted(F.NegativeBinomial(), counts(num_features=6, latent_dim=2), 2)
    posterior = guide.coefficients
    change = posterior.draw(torch.randn(20, posterior.noise_dim)) - posterior.mean
    products = change[..., :-1].mT @ posterior.mode[:, :-1]
    torch.testing.assert_close(products, products.mT, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [None, pytest.param("shared", marks=pytest.mark.slow)])
def test_intervals_draws_and_the_container_agree(size):
    y = counts()
    model, guide = fitted(F.NegativeBinomial(size), y)
    low, high = guide.learnt_parameters(y).interval(0.9)["size"]
    found = guide.quantiles([0.05, 0.95], y)["family_size"]
    torch.testing.assert_close(found, torch.stack([low, high]), rtol=1e-5, atol=0.0)
    drawn = pef.to_arviz(model, guide, y, num_samples=2_000, groups=["posterior"]).posterior
    dims = ("feature",) if size is None else ()
    assert drawn["family_size"].dims == ("chain", "draw", *dims)
    ends = np.quantile(drawn["family_size"], [0.05, 0.95], axis=(0, 1))
    np.testing.assert_allclose(np.log(ends), found.log(), atol=0.15)


def test_columns_of_a_mixed_table_have_their_names():
    laws = F.Columns({"genes": F.NegativeBinomial(), "bits": F.Bernoulli()})
    y = torch.cat([counts(num_features=1), torch.bernoulli(torch.full((120, 1), 0.5))], 1)
    model, guide = fitted(laws, y)
    posterior = pef.to_arviz(model, guide, y, num_samples=5, groups=["posterior"]).posterior
    (name,) = (x for x in posterior if x.startswith("family"))
    assert list(posterior[name].coords[posterior[name].dims[-1]].values) == ["genes"]


def test_the_density_of_a_draw_is_that_of_the_normal_of_both():
    _, guide = fitted(F.NegativeBinomial(), counts())
    posterior = guide.coefficients
    with torch.no_grad():
        trace = pyro.poutine.trace(guide.global_guide).get_trace(counts())
    trace.compute_log_prob()
    names = ("loading", "intercept", "family_size")
    found = sum(trace.nodes[name]["log_prob"] for name in ("_coefficients_noise", *names))
    loading, intercept, size = (trace.nodes[name]["value"] for name in names)
    place = torch.cat([torch.cat([loading, intercept[:, None]], 1).flatten(), size.log()])
    below = torch.nn.functional.pad(posterior.parameters.factor, (8, 0))
    factor = torch.cat([posterior.factor, below])
    mean = torch.cat([posterior.mean.flatten(), posterior.parameters.mode])
    normal = torch.distributions.MultivariateNormal(mean, factor @ factor.mT)
    torch.testing.assert_close(found, normal.log_prob(place) - size.log().sum())


def test_a_size_that_runs_to_infinity_has_no_interval_and_no_draws():
    y = torch.poisson(torch.full((80, 3), 3.0))
    flat = {"parameter_scale": None}
    with pytest.warns(UserWarning, match="does not determine"):
        _, guide = fitted(F.NegativeBinomial(), y, 1, **flat)
    posterior = guide.coefficients.parameters
    unknown = ~posterior.is_determined
    assert bool(unknown.any())
    low, high = posterior.interval(0.9)["size"]
    assert bool((low[unknown] == 0).all() & high[unknown].isinf().all())
    torch.manual_seed(1)
    draws = torch.stack([guide(y)["family_size"] for _ in range(3)])
    assert bool((draws[:, unknown] == draws[0, unknown]).all())


def test_a_saved_guide_has_the_same_draws(tmp_path):
    y = counts()
    _, guide = fitted(F.NegativeBinomial(), y)
    guide.save(tmp_path / "guide")
    other = pef.load(tmp_path / "guide")
    torch.manual_seed(1)
    expected = guide(y)
    torch.manual_seed(1)
    torch.testing.assert_close(other(y), expected)


def test_a_copied_block_is_fitted_as_its_original_is():
    y = counts()
    model = pef.ExpFamPCA(F.NegativeBinomial(), 4, 1)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    again = copy.deepcopy(guide).fit(y, progress=False)
    assert repr(again).startswith(repr(guide.fit(y, progress=False)).split(", seconds")[0])


def test_autoguides_move_sampled_parameters():
    pyro.clear_param_store()
    y = counts()
    model = pef.ExpFamPCA(F.NegativeBinomial(), 4, 1).with_sampled_parameters()
    guide = AutoNormal(model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    first = svi.evaluate_loss(y)
    for _ in range(60):
        svi.step(y)
    assert svi.evaluate_loss(y) < first
    assert guide.median(y)["family_size"].shape == (4,)


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="must learn parameters"):
        pef.ExpFamPCA(F.Poisson(), 4, 1).with_sampled_parameters()
    with pytest.raises(ValueError, match="size of the family must have a prior"):
        pef.ExpFamPCA(F.NegativeBinomial("shared"), 4, 1).with_sampled_parameters()
    model = pef.ExpFamPCA(F.NegativeBinomial(), 4, 1).with_sampled_parameters()
    with pytest.raises(ValueError, match="with_sampled_parameters"):
        pef.LaplaceGuide(model).fit(counts())


@pytest.mark.parametrize("size", [0.0, torch.inf])
def test_a_sampler_may_turn_back_from_a_size_that_is_no_number(size):
    y, sizes = counts(20), {"family_size": torch.full((4,), size)}
    model = pef.ExpFamPCA(F.NegativeBinomial(), 4, 1).with_sampled_parameters()
    with pyro.validation_enabled(False):
        trace = pyro.poutine.trace(pyro.condition(model, data=sizes)).get_trace(y)
        assert not trace.log_prob_sum() > -torch.inf


@pytest.mark.slow
def test_draws_agree_with_nuts():
    # The size of a column with a large loading has a long tail: the latent may explain all of it.
    eta = torch.randn(300, 1) @ torch.tensor([[0.6, -0.6, 0.5, 0.7, -0.5]]) + 1.0
    y = F.NegativeBinomial(2.0).sample(eta)
    model, guide = fitted(F.NegativeBinomial(), y)
    posterior = guide.coefficients.parameters
    kernel = NUTS(model.with_sampled_parameters(), max_tree_depth=7)
    mcmc = MCMC(kernel, num_samples=600, warmup_steps=300, disable_progbar=True)
    mcmc.run(y)
    drawn = mcmc.get_samples()["family_size"].log()
    deviation = posterior.covariance.diagonal().sqrt()
    assert float(((drawn.mean(0) - posterior.mode) / deviation).abs().max()) < 0.5
    np.testing.assert_allclose(drawn.std(0), deviation, rtol=0.25)
