"""Blocks and guides under a convolution, with its matrix and without."""

import copy
import pickle
import warnings
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

import pyro_expfam as pef

UP = pef.linear.ConvTranspose2d(2, 1, (4, 2), stride=2, padding=(1, 0), latent_shape=(2, 2, 2))
FREE = replace(UP, dense_latents=0)
BOTH = {"matrix": UP, "matrix-free": FREE}
both = pytest.mark.parametrize("name", BOTH)


def table(num_rows=20):
    """Counts whose images are convolutions of latents."""
    kernel = 0.6 * torch.randn(UP.kernel_shape)
    return torch.poisson(torch.exp(UP.map(kernel)(torch.randn(num_rows, UP.latent_dim))))


def block(convolution=FREE, **settings):
    return pef.ExpFamPCA(pef.families.Poisson(), linear_map=convolution, **settings)


def trained(convolution=FREE, make=pef.DEQMAPGuide):
    """A guide after a step of training from a kernel of ordinary size."""
    y = table()
    guide = make(block(convolution))
    guide(y)
    with torch.no_grad():
        guide.global_guide.loading.mul_(6.0)
    SVI(guide.model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(y)
    return guide, y


@both
def test_sizes_and_shapes(name):
    model = block(BOTH[name])
    assert (model.num_features, model.latent_dim) == (16, 8)
    assert model.loading.shape == (2, 1, 4, 2)
    guide = pef.DEQMAPGuide(model)
    y = table()
    guide(y)
    assert guide.kernel.shape == (2, 1, 4, 2)
    assert guide.intercept.shape == (16,)
    assert guide.latents(y).shape == (20, 8)
    assert model(num_rows=3).shape == (3, 8)


def test_both_ways_have_the_same_loss_and_the_same_gradient():
    y = table()
    found = []
    for convolution in BOTH.values():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model = block(convolution).double()
        guide = pef.DEQMAPGuide(model)
        guide(y.double())
        guide.double()
        loss = Trace_ELBO().differentiable_loss(model, guide, y.double())
        found.append([loss, *torch.autograd.grad(loss, list(guide.parameters()))])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-5)


@both
def test_a_fit_is_at_rest_and_explains_the_table(name):
    y = table()
    guide = pef.DEQMAPGuide(block(BOTH[name]))
    guide.fit(y, tol=1e-5)
    assert guide.block().solution(y).converged.all()
    with torch.no_grad():
        eta = guide.linear_map(guide.latents(y)) + guide.intercept
    explained = pef.distributions.Poisson(eta).log_prob(y).sum()
    alone = pef.distributions.Poisson(y.mean(0).clamp(min=0.01).log()).log_prob(y).sum()
    assert explained > alone + 20
    model = guide.model
    loss = Trace_ELBO().differentiable_loss(model, guide, y)
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    assert all(x.abs().max() < 0.02 * float(loss.detach()) for x in gradients)


@both
def test_svi_decreases_both_losses(name):
    y = table()
    for loss in (Trace_ELBO(), pef.LaplaceEvidence()):
        pyro.clear_param_store()
        model = block(BOTH[name])
        svi = SVI(model, pef.DEQMAPGuide(model), Adam({"lr": 0.1}), loss)
        losses = [svi.step(y) for _ in range(4)]
        assert losses[-1] < 0.95 * losses[0]


def test_a_minibatch_with_rows_a_mask_and_several_particles():
    y, mask = table(), torch.rand(20, 16) < 0.8
    model = block()
    guide = pef.DEQMAPGuide(model, global_guide=AutoNormal)
    loss = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, Adam({"lr": 0.01}), loss)
    rows = torch.arange(10)
    for _ in range(2):
        assert svi.step(y[:10], mask=mask[:10], num_rows=20, rows=rows) > 0


def test_posteriors_without_a_matrix_are_the_exact_ones():
    guide, y = trained()
    exact = pef.LaplaceGuide(block(UP))
    exact(y)
    exact.load_state_dict(guide.state_dict())
    rows = y[:5]
    with torch.no_grad():
        found = pef.LaplaceGuide(guide.model, params=guide).posterior(rows)
        wanted = exact.posterior(rows)
    assert (found.method, wanted.method) == ("conjugate gradients and Lanczos quadrature", "exact")
    assert "standard error at most" in repr(found)
    torch.testing.assert_close(found.mean, wanted.mean, rtol=1e-3, atol=1e-3)
    error = (found.variance - wanted.variance) / found.variance_error
    assert error.abs().max() < 5
    assert error.square().mean().sqrt() < 1.5
    draws = found.sample((400,))
    ratio = draws.var(0) / wanted.variance
    assert (ratio - 1).abs().mean() < 0.1
    correlation = torch.corrcoef(draws[:, 0].T) - torch.corrcoef(wanted.sample((400,))[:, 0].T)
    assert correlation.abs().max() < 0.3
    # Densities differ by the error of the log determinant alone.
    shift = found.log_prob(draws[0]) - wanted.log_prob(draws[0])
    torch.testing.assert_close(
        shift, found.log_prob(found.mean) - wanted.log_prob(wanted.mean), rtol=0, atol=1e-3
    )
    assert ((found.entropy() - wanted.entropy()) / (0.5 * found.log_det_error)).abs().max() < 4.5
    assert found.expand((2, 5)).rsample().shape == (2, 5, 8)
    with pytest.raises(TypeError, match="covariance_matrix wants a linear map with a matrix"):
        _ = found.covariance_matrix


def test_draws_are_differentiable_in_the_kernel():
    y = table(4)
    model = block()
    guide = pef.LaplaceGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses)))
    loss = Trace_ELBO().differentiable_loss(model, guide, y)
    assert all(x.isfinite().all() for x in torch.autograd.grad(loss, list(guide.parameters())))


def test_rows_have_evidence_and_their_standard_error():
    guide, y = trained()
    laplace = pef.LaplaceGuide(guide.model, params=guide)
    stats = laplace.sample_stats(y[:5])
    assert stats["converged"].all()
    exact = pef.DEQMAPGuide(block(UP))
    exact(y)
    exact.load_state_dict(guide.state_dict())
    with torch.no_grad():
        error = laplace.log_evidence(y[:5]) - exact.log_evidence(y[:5])
    assert (error.abs() < 4.5 * 0.5 * stats["log_det_error"]).all()


def test_a_scale_per_latent_is_a_prior_without_a_matrix_too():
    y, found = table(), []
    scale = torch.linspace(0.5, 2.0, 8)
    for convolution in BOTH.values():
        pyro.set_rng_seed(1)
        guide = pef.DEQMAPGuide(block(convolution, latent_scale=scale))
        guide(y)
        found.append(guide.latents(y))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@both
def test_saved_and_copied_guides(name, tmp_path):
    guide, y = trained(BOTH[name])
    latents = guide.latents(y).detach()
    torch.save(guide.state_dict(), tmp_path / "guide.pt")
    other = pef.DEQMAPGuide(block(BOTH[name]))
    other.load_state_dict(torch.load(tmp_path / "guide.pt"))
    other(y)
    for each in (other, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        assert torch.equal(each.latents(y), latents)


@both
def test_a_container_names_the_dimensions_of_the_kernel(name):
    guide, y = trained(BOTH[name], pef.LaplaceGuide)
    idata = pef.to_arviz(guide.model, guide, y[:5], num_samples=5)
    dims = ("chain", "draw", "channel_in", "channel_out", "kernel_row", "kernel_column")
    assert idata["posterior"]["loading"].dims == dims
    assert idata["posterior"]["z"].shape == (1, 5, 5, 8)
    with pytest.raises(ValueError, match="the kernel of a convolution"):
        pef.plots.plot_loading(idata)
    with pytest.raises(ValueError, match="loading"):
        pef.align(idata)


@both
def test_an_encoder_trains_the_kernel(name):
    guide, y = trained(BOTH[name])
    encoder = pef.DEQEncoder(guide)
    torch.testing.assert_close(encoder(y), guide.latents(y), rtol=1e-3, atol=1e-3)
    encoder(y).square().sum().backward()
    assert encoder.weight.grad.abs().max() > 0
    assert torch.equal(encoder.to_guide().kernel, guide.kernel)
    assert "latent_dim=8" in repr(encoder)
    with pytest.raises(ValueError, match="basis must be 'latent' under a linear_map"):
        pef.DEQEncoder(guide, basis="orthogonal")


def test_predictions_of_new_tables():
    guide, y = trained(UP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Predictive(guide.model, guide=guide, num_samples=3)(y[:4])
    assert found["z"].shape == (3, 4, 8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"linear_map": 3}, TypeError, "linear_map must be a convolution .* got int"),
        ({"linear_map": UP, "num_features": 35}, ValueError, "num_features must be 16, which"),
        ({"linear_map": UP, "latent_dim": 2}, ValueError, "latent_dim must be 8, which"),
        ({}, ValueError, "num_features must be a whole number of at least 1, got None"),
        ({"num_features": 3}, ValueError, "latent_dim must be a whole number .* got None"),
        (
            {"linear_map": UP, "loading_scale": torch.ones(8)},
            ValueError,
            r"loading_scale must have shape \(\), got \(8,\)",
        ),
    ],
)
def test_arguments_that_do_not_fit(settings, error, message):
    with pytest.raises(error, match=message):
        pef.ExpFamPCA(pef.families.Poisson(), **settings)


def test_tables_and_families_that_do_not_fit():
    with pytest.raises(ValueError, match=r"y must have .*16"):
        pef.DEQMAPGuide(block())(torch.ones(4, 15))
    with pytest.raises(ValueError, match="family must have one linear predictor per column"):
        pef.ExpFamPCA(pef.families.Categorical(2), linear_map=UP)
    model = block()
    with pytest.raises(AttributeError, match=r"linear_map of a block is .* cannot change"):
        model.linear_map = UP
    model.linear_map = FREE


def test_what_needs_a_loading_by_column_refuses():
    guide, y = trained()
    model = guide.model
    with pytest.raises(ValueError, match="model must have dense loadings for check"):
        pef.check(model, guide, y)
    with pytest.raises(ValueError, match="model must have a dense loading"):
        pef.LaplaceGuide(model, globals="laplace")
    dense = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 16, 2))
    dense(y)
    with pytest.raises(ValueError, match="kernel wants a block with a linear_map"):
        _ = dense.kernel
    for use in (
        lambda: guide.loading,
        lambda: guide.importance_evidence(y),
        lambda: guide.importance_latents(y),
    ):
        with pytest.raises(TypeError, match="linear_map must have a matrix here"):
            use()
    with pytest.raises(ValueError, match="linear_map must have a matrix for the second order"):
        guide.log_evidence(y, order=2)
    with pytest.raises(ValueError, match="loss must be None for a linear_map with 8 latents"):
        pef.LaplaceGuide(model).fit(y)


def test_a_small_convolution_is_better_than_a_dense_loading_of_as_many_numbers():
    small = pef.linear.ConvTranspose1d(1, 1, 4, stride=2, padding=1, latent_shape=(1, 4))
    y = torch.poisson(torch.exp(small.map(torch.ones(1, 1, 4))(torch.randn(140, 4))))
    models = {
        "convolution": pef.ExpFamPCA(pef.families.Poisson(), linear_map=small),
        "dense": pef.ExpFamPCA(pef.families.Poisson(), num_features=8, latent_dim=1),
    }
    held_out, numbers = {}, {}
    for name, model in models.items():
        guide = pef.LaplaceGuide(model)
        assert guide.fit(y[:40]).converged
        numbers[name] = sum(x.numel() for x in guide.parameters())
        held_out[name] = guide.log_evidence(y[40:], order=2).mean()
    assert guide.loading.shape == (8, 1)
    assert numbers == {"convolution": 12, "dense": 16}
    assert held_out["convolution"] > held_out["dense"] + 1.0
