"""The normal by precision factor is the multivariate normal of PyTorch."""

import pickle

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_expfam.guides import LaplacePosterior


def random_pair(size, batch=(3,)):
    """The same normal from this package and from PyTorch."""
    root = torch.randn(*batch, size, size + 2, dtype=torch.float64)
    precision = root @ root.mT + 0.2 * torch.eye(size, dtype=torch.float64)
    loc = torch.randn(*batch, size, dtype=torch.float64)
    factor = torch.linalg.cholesky(precision)
    return LaplacePosterior(loc, factor), dist.MultivariateNormal(loc, precision_matrix=precision)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_every_quantity_agrees_with_the_multivariate_normal(size):
    ours, reference = random_pair(size)
    value = torch.randn(5, 3, size, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(value), reference.log_prob(value))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    torch.testing.assert_close(ours.mean, reference.mean)
    torch.testing.assert_close(ours.mode, reference.mode)
    torch.testing.assert_close(ours.variance, reference.variance)
    torch.testing.assert_close(ours.covariance_matrix, reference.covariance_matrix)
    torch.testing.assert_close(ours.precision_matrix, reference.precision_matrix)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_draws_have_the_mean_and_the_covariance(size):
    ours, _ = random_pair(size, batch=())
    draws = ours.sample((200_000,))
    error = 5 * (ours.variance / len(draws)).sqrt()
    assert ((draws.mean(0) - ours.mean).abs() < error).all()
    scaled = torch.cov(draws.T).reshape(size, size) @ ours.precision_matrix
    torch.testing.assert_close(scaled, torch.eye(size).double(), rtol=0.0, atol=0.05)


def test_draws_are_differentiable():
    loc = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    factor = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1).requires_grad_()

    def draw(loc, factor):
        torch.manual_seed(0)
        return LaplacePosterior(loc, factor.tril(), validate_args=False).rsample((4,))

    assert torch.autograd.gradcheck(draw, (loc, factor))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_divergences_agree_with_the_multivariate_normal(size):
    (ours, reference), (other, other_reference) = random_pair(size), random_pair(size)
    torch.testing.assert_close(
        kl_divergence(ours, other), kl_divergence(reference, other_reference)
    )
    loc, scale = torch.randn(size).double(), 0.5 + torch.rand(size).double()
    prior = dist.Normal(loc, scale).to_event(1)
    reference_prior = dist.MultivariateNormal(loc, torch.diag(scale.square()))
    torch.testing.assert_close(
        kl_divergence(ours, prior), kl_divergence(reference, reference_prior)
    )


def test_shapes_expand_and_pickle():
    ours, _ = random_pair(2)
    wide = ours.expand((4, 3))
    assert wide.batch_shape == (4, 3)
    assert wide.event_shape == (2,)
    assert wide.sample((5,)).shape == (5, 4, 3, 2)
    torch.testing.assert_close(wide.variance[1], ours.variance)
    shapes = LaplacePosterior.infer_shapes(loc=(3, 2), precision_factor=(4, 1, 2, 2))
    assert shapes == ((4, 3), (2,))
    again = pickle.loads(pickle.dumps(ours))
    torch.testing.assert_close(again.log_prob(ours.loc), ours.log_prob(ours.loc))
    masked = ours.mask(torch.tensor([True, False, True]))
    assert masked.log_prob(ours.loc)[1] == 0


def test_a_value_that_is_not_a_vector_is_refused():
    ours, _ = random_pair(2)
    with pytest.raises(ValueError, match="support"):
        ours.log_prob(torch.full((3, 2), torch.nan, dtype=torch.float64))
