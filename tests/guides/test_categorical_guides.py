"""Guides of tables of categories."""

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyro_expfam as pef

F = pef.families
LEVELS, COLUMNS = 3, 5


@pytest.fixture
def y():
    torch.manual_seed(2)
    W, b = torch.randn(LEVELS * COLUMNS, 2), 0.3 * torch.randn(LEVELS * COLUMNS)
    family = F.Categorical(LEVELS)
    return family.decode(family.sample(torch.randn(80, 2) @ W.T + b))


def block(**settings):
    return pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2, **settings).double()


def log_joint(model, W, b, z, y):
    """The log density of everything, by PyTorch's cross entropy and normals."""
    eta = (z @ W.T + b).unflatten(-1, (COLUMNS, LEVELS))
    losses = torch.nn.functional.cross_entropy(
        eta.flatten(0, 1), y.long().flatten(), reduction="sum"
    )

    def normal(x, scale):
        return torch.distributions.Normal(0.0, scale).log_prob(x).sum()

    return normal(z, 1.0) + normal(W, 1.0) + normal(b, 10.0) - losses


def test_the_joint_fit_is_at_the_maximum_of_the_joint_density(y):
    model = block()
    guide = pef.DEQMAPGuide(model).double()
    fit = guide.fit(y, tol=1e-10)
    assert fit.converged
    W, b, z = guide.loading.detach(), guide.intercept.detach(), fit.latents
    leaves = [x.clone().requires_grad_() for x in (W, b, z)]
    value = log_joint(model, *leaves, y)
    assert fit.objective == pytest.approx(-float(value.detach()), rel=1e-9)
    for gradient in torch.autograd.grad(value, leaves):
        assert float(gradient.abs().max()) < 1e-3


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_levels_of_a_column_sum_to_zero(make, y):
    guide = make(block()).double()
    assert guide.fit(y).converged
    for coefficient in (guide.loading, guide.intercept):
        sums = coefficient.detach().unflatten(0, (COLUMNS, LEVELS)).sum(1)
        torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-6)


def test_the_evidence_fit_maximises_the_evidence(y):
    model = block()
    guide = pef.LaplaceGuide(model).double()
    assert guide.fit(y, tol=1e-10).converged
    W = guide.loading.detach().requires_grad_()
    b = guide.intercept.detach().requires_grad_()
    evidence = pef.log_evidence(F.Categorical(LEVELS), y, W, b).sum()
    value = evidence - 0.5 * W.square().sum() - 0.5 * b.square().sum() / 100
    for gradient in torch.autograd.grad(value, (W, b)):
        assert float(gradient.abs().max()) < 1e-3


def test_batches_give_the_same_fit_as_a_table_in_memory(y):
    mask = torch.rand(80, COLUMNS) > 0.2
    whole = pef.DEQMAPGuide(block()).double()
    streamed = pef.DEQMAPGuide(block()).double()
    first = whole.fit(y, mask=mask)
    rows = (slice(0, 50), slice(50, 80))
    second = streamed.fit([{"y": y[part], "mask": mask[part]} for part in rows])
    assert first.objective == pytest.approx(second.objective, rel=1e-6)


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_svi_trains(make, y):
    model = pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2)
    guide = make(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(30)]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_draws_have_the_probabilities_of_the_model():
    model = block()
    drawn = poutine.trace(model).get_trace(num_rows=4000).nodes
    eta = drawn["z"]["value"] @ drawn["loading"]["value"].T + drawn["intercept"]["value"]
    expected = eta.unflatten(-1, (COLUMNS, LEVELS)).softmax(-1).mean(0)
    found = torch.nn.functional.one_hot(drawn["y"]["value"].long(), LEVELS).double().mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_check_and_to_arviz_know_categories(y):
    model = pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    assert not pef.check(model, guide, y).problems
    idata = pef.to_arviz(model, guide, y, num_samples=20)
    assert idata.posterior["loading"].dims[-2:] == ("predictor", "latent")
    assert idata.posterior["loading"].shape[-2:] == (LEVELS * COLUMNS, 2)
    assert idata.log_likelihood["y"].shape[-2:] == (80, COLUMNS)
    assert set(idata.posterior_predictive["y"].values.flatten()) <= set(range(LEVELS))


def test_what_categories_cannot_have_is_said(y):
    model = pef.ExpFamPCA(F.Categorical(LEVELS), COLUMNS, 2)
    with pytest.raises(NotImplementedError, match="not available for categories"):
        pef.LaplaceGuide(model, globals="laplace").fit(y)
    with pytest.raises(NotImplementedError, match="compare_latent_dims cannot compare"):
        pef.compare_latent_dims(F.Categorical(LEVELS), y, [1, 2])
