"""The inverse information of the coefficients at the maximum of the evidence."""

import pytest
import torch
from coefficient_problems import evidence_objective
from exact_posterior import SOLVER, prior_precision, random_table
from torch.autograd.functional import hessian

import pyro_expfam as pef
from pyro_expfam.coefficients import gauge_directions
from pyro_expfam.coefficients.covariance import coefficient_covariance, maximum_with_covariance
from pyro_expfam.deq.layer import make_problem

FAMILIES = [pef.families.Poisson(), pef.families.Bernoulli(), pef.families.Categorical(3)]


def maximum(family, latent_dim=2, start=None):
    y, W, b = random_table(family, 150, 6, 1.0, latent_dim)
    W = W if start is None else start(W)
    prior = prior_precision(3.0, latent_dim)
    free = torch.ones(latent_dim + 1, dtype=torch.bool)
    problem = make_problem(family, y, W, b, 1.0, None, None)
    return maximum_with_covariance(problem, prior, SOLVER, free), prior, free


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_it_is_the_inverse_of_the_hessian_across_rotations(family):
    (problem, z, covariance), prior, free = maximum(family)
    mode = covariance.mode.flatten()
    exact = hessian(lambda x: evidence_objective(problem, prior, x), mode)
    rotations = gauge_directions(problem.W)
    basis = torch.linalg.qr(rotations, mode="complete")[0][:, rotations.shape[1] :]
    expected = basis @ torch.linalg.inv(basis.T @ exact @ basis) @ basis.T
    torch.testing.assert_close(covariance.covariance(), expected, rtol=1e-6, atol=1e-9)
    alone = coefficient_covariance(problem, prior, z, free)
    torch.testing.assert_close(alone.covariance(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_it_is_not_at_a_saddle_where_a_latent_has_no_loading(family):
    """Without loading on a latent the evidence has no slope there, but may have a way up."""

    def without_second(W):
        return torch.cat([W[:, :1], torch.zeros_like(W[:, 1:])], 1)

    torch.manual_seed(3)
    (best, _, _), prior, _ = maximum(family)
    torch.manual_seed(3)
    (found, _, _), _, _ = maximum(family, start=without_second)
    objectives = [
        float(evidence_objective(x, prior, torch.cat([x.W, x.b[:, None]], 1).flatten()))
        for x in (best, found)
    ]
    assert objectives[1] == pytest.approx(objectives[0], abs=1e-5)
    # Rotations change the loading, but not this product.
    torch.testing.assert_close(found.W @ found.W.T, best.W @ best.W.T, rtol=1e-3, atol=1e-3)
