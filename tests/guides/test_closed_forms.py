"""For Gaussian tables everything is in closed form."""

import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_expfam as pef


def gaussian_table(num_rows=40, num_features=9, rank=4):
    signal = 2.0 * torch.randn(num_rows, rank) @ torch.randn(rank, num_features)
    return (signal + torch.randn(num_rows, num_features) + 3.0).double()


def minimise(model, guide, y):
    """The loss of Trace_ELBO at its minimum over all parameters, by L-BFGS."""
    loss_of = Trace_ELBO().differentiable_loss
    guide(y)
    parameters = [*guide.parameters(), *model.parameters()]
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=300,
        tolerance_grad=1e-7,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = loss_of(model, guide, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    return closure().item()


@pytest.mark.parametrize("latent_precision", [2.0, 9.0])
def test_joint_map_is_the_singular_value_soft_threshold(latent_precision):
    torch.set_default_dtype(torch.float64)
    y = gaussian_table()
    loading_scale = 0.3
    model = pef.ExpFamPCA(
        pef.families.Gaussian(1.0), 9, 9, latent_precision, loading_scale, intercept_scale=None
    )
    guide = pef.DEQMAPGuide(model)
    minimise(model, guide, y)
    fitted = guide.latents(y) @ guide.loading.T + guide.intercept

    centred = y - y.mean(0)
    U, singular, V = torch.linalg.svd(centred, full_matrices=False)
    threshold = (latent_precision / loading_scale**2) ** 0.5
    shrunk = (singular - threshold).clamp(min=0.0)
    assert (shrunk == 0).any()
    expected = y.mean(0) + U * shrunk @ V
    torch.testing.assert_close(fitted, expected, rtol=0.0, atol=2e-3)


def test_the_laplace_posterior_is_the_exact_posterior():
    y = gaussian_table()
    scale = 1.7
    model = pef.ExpFamPCA(pef.families.Gaussian(scale), 9, 3, latent_precision=0.4).double()
    guide = pef.LaplaceGuide(model)
    guide(y)
    posterior = guide.posterior(y)
    W, b = guide.loading, guide.intercept
    precision = 0.4 * torch.eye(3).double() + W.T @ W
    covariance = torch.linalg.inv(precision)
    torch.testing.assert_close(posterior.mean, (y / scale - b) @ W @ covariance)
    torch.testing.assert_close(posterior.covariance_matrix, covariance.expand(40, 3, 3))


def test_the_elbo_with_the_exact_posterior_is_the_marginal_likelihood():
    y = gaussian_table()
    model = pef.ExpFamPCA(
        pef.families.Gaussian(1.0), 9, 3, loading_scale=None, intercept_scale=None
    ).double()
    guide = pef.LaplaceGuide(model)
    losses = torch.tensor(
        [Trace_ELBO().loss(model, guide, y) for _ in range(5)], dtype=torch.float64
    )
    W, b = guide.loading, guide.intercept
    marginal = torch.distributions.MultivariateNormal(b, W @ W.T + torch.eye(9).double())
    expected = -marginal.log_prob(y).sum()
    # With the exact posterior every draw gives the evidence: no Monte Carlo error is left.
    torch.testing.assert_close(losses, expected.expand(5), rtol=1e-9, atol=0.0)
