"""Which table the posterior of loading and intercept belongs to."""

import pickle
import warnings

import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch.utils.data import DataLoader

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES = 100, 6


@pytest.fixture(name="y")
def table():
    eta = torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES)
    return torch.poisson((0.6 * eta).exp())


def block():
    return pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1, intercept_scale=2.0)


def posterior_of(guide, y):
    """The posterior of a table, made by name, from where the guide has been trained to."""
    other = pef.LaplaceGuide(guide.model, params=guide.params or guide, globals="laplace")
    other.update_globals(y)
    return other.coefficients


def has_posterior_of(guide, y):
    expected, found = posterior_of(guide, y), guide.coefficients
    return torch.allclose(found.mean, expected.mean, atol=1e-4) and torch.allclose(
        found.variance(), expected.variance(), rtol=1e-3
    )


def shared_with(trained):
    return pef.LaplaceGuide(trained.model, params=trained, globals="laplace")


def silently(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*args, **kwargs)


def warned(call, *args, **kwargs):
    with pytest.warns(UserWarning, match="update_globals"):
        return call(*args, **kwargs)


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()], ids=["joint", "evidence"])
def test_the_posterior_after_a_fit_belongs_to_the_fitted_table(y, loss):
    trained = pef.DEQMAPGuide(block())
    trained.fit(y)
    guide = shared_with(trained)
    guide.fit(y, weights=torch.ones(1, NUM_FEATURES), loss=loss)
    loading = guide.loading
    silently(pef.to_arviz, guide.model, guide, y[:10], num_samples=5)
    assert torch.equal(guide.loading, loading)
    assert has_posterior_of(guide, y)


def test_a_first_call_with_other_rows_than_were_fitted_warns(y):
    trained = pef.DEQMAPGuide(block())
    trained.fit(y)
    silently(shared_with(trained), y)
    silently(shared_with(trained), y.double().numpy())
    guide = shared_with(trained)
    warned(pef.to_arviz, guide.model, guide, y[:10], num_samples=5)
    assert has_posterior_of(guide, y[:10])
    # Once is enough.
    silently(guide, y[:10])
    as_many = torch.poisson(torch.ones(NUM_ROWS, NUM_FEATURES))
    warned(shared_with(trained), as_many)


def test_standardised_tables_are_told_apart():
    first, second = torch.randn(2, NUM_ROWS, NUM_FEATURES)
    first, second = ((x - x.mean(0)) / x.std(0) for x in (first, second))
    trained = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Gaussian(1.0), NUM_FEATURES, 1))
    trained.fit(first)
    silently(shared_with(trained), first.flip(0))
    warned(shared_with(trained), second)


def test_the_posterior_follows_another_fit_of_the_shared_guide(y):
    trained = pef.DEQMAPGuide(block())
    trained.fit(y)
    guide = shared_with(trained)
    guide(y)
    other = torch.poisson(2 * torch.ones(60, NUM_FEATURES))
    trained.fit(other)
    torch.testing.assert_close(guide.loading, trained.loading)
    with pytest.raises(RuntimeError, match="trained now"):
        _ = guide.coefficients
    silently(guide, other)
    assert has_posterior_of(guide, other)
    trained.fit(y)
    warned(guide, other)


def test_the_posterior_follows_svi_of_the_shared_guide(y):
    trained = pef.DEQMAPGuide(block())
    svi = SVI(trained.model, trained, Adam({"lr": 0.05}), Trace_ELBO())
    svi.step(y)
    guide = shared_with(trained)
    silently(guide, y)
    before = guide.coefficients
    svi.step(y)
    # Whoever looks at new rows has not trained on them.
    pef.to_arviz(trained.model, trained, y[:10], num_samples=2)
    trained(y[:10])
    silently(guide, y)
    assert guide.coefficients is not before
    svi.step(y)
    warned(guide, y[:10])


def test_minibatches_stand_for_the_whole_table(y):
    trained = pef.DEQMAPGuide(block())
    svi = SVI(trained.model, trained, Adam({"lr": 0.05}), Trace_ELBO())
    svi.step(y[:20], num_rows=NUM_ROWS)
    silently(shared_with(trained), y)
    warned(shared_with(trained), y[:20])


def test_a_table_in_batches_is_left_to_be_made(y):
    guide = pef.LaplaceGuide(block(), globals="laplace")
    guide.fit(DataLoader(y, batch_size=40))
    with pytest.raises(RuntimeError, match="no posterior of loading"):
        _ = guide.coefficients
    warned(guide, y[:10])
    guide.update_globals(y)
    silently(guide, y[:10])
    assert has_posterior_of(guide, y)


def test_nothing_is_said_of_a_guide_that_was_not_trained(y):
    silently(pef.LaplaceGuide(block(), globals="laplace"), y[:20])


def test_a_chosen_table_stays_through_calls_and_pickling(y):
    guide = pef.LaplaceGuide(block(), globals="laplace")
    guide.fit(y)
    guide.update_globals(y[:40])
    assert has_posterior_of(guide, y[:40])
    silently(guide, y)
    again = pickle.loads(pickle.dumps(guide))
    silently(again, y)
    torch.testing.assert_close(again.coefficients.mean, guide.coefficients.mean)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("intercept_scale", [2.0, None])
@pytest.mark.parametrize("loss", [Trace_ELBO(), pef.LaplaceEvidence()], ids=["elbo", "evidence"])
def test_a_training_step_is_refused_before_anything_moves(y, fitted, intercept_scale, loss):
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1, intercept_scale=intercept_scale)
    guide = pef.LaplaceGuide(model, globals="laplace")
    if fitted:
        guide.fit(y)
    before = [x.detach().clone() for x in (*model.parameters(), *guide.parameters())]
    svi = SVI(model, guide, Adam({"lr": 0.05}), loss)
    with pytest.raises(RuntimeError, match=r"no parameters .*params="):
        svi.step(y)
    with pytest.raises(RuntimeError, match=r"no parameters .*params="):
        loss.differentiable_loss(model, guide, y)
    after = [*model.parameters(), *guide.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=False))
    assert len(before) == len(after) or not fitted


@pytest.mark.parametrize("name", ["latent_precision", "loading_scale"])
def test_the_posterior_is_recomputed_after_a_change_of_the_prior(y, name):
    guide = pef.LaplaceGuide(block(), globals="laplace")
    guide.fit(y)
    before = guide.coefficients.variance()
    getattr(guide.model, name).mul_(0.5)
    with pytest.raises(RuntimeError, match="no posterior of loading"):
        _ = guide.coefficients
    guide.update_globals(y)
    assert not torch.allclose(guide.coefficients.variance(), before, rtol=1e-3)


def test_nothing_is_said_of_values_without_gradients(y):
    guide = pef.LaplaceGuide(block(), globals="laplace")
    guide.fit(y)
    loss = SVI(guide.model, guide, Adam({"lr": 0.05}), Trace_ELBO()).evaluate_loss(y)
    assert loss > 0
    with torch.no_grad():
        assert "loading" in poutine.trace(guide).get_trace(y).nodes
    assert Predictive(guide.model, guide=guide, num_samples=2)(y)["y"].shape[0] == 2
