"""The Laplace evidence: exact for Gaussian tables, and its gradient for all."""

import pytest
import torch
from evidence_problems import FAMILIES, random_problem, root
from quick_cases import in_turn
from torch.autograd import gradcheck

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem
from pyro_expfam.evidence import laplace_evidence


def gaussian_arguments(num_rows=7, num_features=6, latent_dim=3):
    W = torch.randn(num_features, latent_dim).double()
    b = torch.randn(num_features).double()
    scale = 0.3 + torch.rand(num_features).double()
    precision = torch.tensor(0.6).double()
    offset = torch.randn(num_rows, num_features).double()
    y = 2.0 * torch.randn(num_rows, num_features).double()
    return y, W, b, scale, precision, offset


def marginal(y, W, b, scale, precision, offset, mask):
    """The marginal likelihood of probabilistic PCA of the entries that are there."""
    total = []
    for row, shift, seen in zip(y, offset, mask, strict=True):
        covariance = scale[:, None] * (W @ W.T / precision + torch.eye(len(W))) * scale
        normal = torch.distributions.MultivariateNormal(
            (scale * (b + shift))[seen], covariance[seen][:, seen]
        )
        total.append(normal.log_prob(row[seen]))
    return torch.stack(total)


@pytest.mark.parametrize("latent_dim", [1, 3, 5])
def test_evidence_of_gaussian_tables_is_the_marginal_likelihood_of_probabilistic_pca(latent_dim):
    y, W, b, scale, precision, offset = gaussian_arguments(latent_dim=latent_dim)
    mask = torch.rand_like(y) < 0.7
    mask[:, 0] = True
    for order in (1, 2):
        value = pef.log_evidence(
            pef.families.Gaussian(scale), y, W, b, precision, offset, mask, order=order
        )
        expected = marginal(y, W, b, scale, precision, offset, mask)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_gaussian_tables_are_those_of_probabilistic_pca():
    y, *others = gaussian_arguments()
    mask = torch.rand_like(y) < 0.7
    mask[:, 0] = True
    cotangent = torch.randn(len(y)).double()
    inputs = [x.clone().requires_grad_() for x in (y, *others)]
    y, W, b, scale, precision, offset = inputs
    family = pef.families.Gaussian(scale)
    ours = pef.log_evidence(family, y, W, b, precision, offset, mask)
    reference = marginal(y, W, b, scale, precision, offset, mask)
    for gradient, expected in zip(
        torch.autograd.grad((ours * cotangent).sum(), inputs),
        torch.autograd.grad((reference * cotangent).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def differentiable_fields(family, latent_dim):
    """Fields that everything depends on, where the log density is linear in the y."""
    problem = random_problem(family, latent_dim, num_rows=4, num_features=5, precision=0.7)
    rows = torch.randn(4, 1).double(), 0.1 + torch.rand(4, 5).double()
    fields = (problem.W, problem.b, problem.precision, *rows)
    return problem.y, tuple(x.requires_grad_() for x in fields)


@pytest.mark.parametrize(("family", "latent_dim"), in_turn(FAMILIES, [1, 2, 3, 4]))
def test_gradients_pass_gradcheck(family, latent_dim):
    y, fields = differentiable_fields(family, latent_dim)

    def evidence(*fields):
        problem = LatentProblem(family, y, *fields)
        return laplace_evidence(problem, root(problem))

    assert gradcheck(evidence, fields, fast_mode=True)


@pytest.mark.parametrize(
    "family",
    [pef.families.Gaussian(0.7), pef.families.ContinuousBernoulli(), pef.families.Poisson()],
    ids=str,
)
def test_gradients_of_observations_pass_gradcheck(family):
    y, fields = differentiable_fields(family, latent_dim=2)
    W, b, precision, offset, weights = (x.detach() for x in fields)

    def evidence(y):
        problem = LatentProblem(family, y, W, b, precision, offset, weights)
        return laplace_evidence(problem, root(problem))

    inner = y.clamp(0.1, 0.9)
    assert gradcheck(evidence, inner.requires_grad_(), fast_mode=True)
