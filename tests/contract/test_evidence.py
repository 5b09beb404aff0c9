"""The evidence of every family, to both orders, against draws and integrals, with its gradients."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from all_families import one_of_each_way
from contract_problems import (
    SMOOTH,
    every,
    information_outside,
    log_joint,
    of_fields,
    random_problem,
)
from torch.autograd import gradcheck
from torch.distributions import constraints

from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import evidence_at_root, mode_log_density

CONVEX = [family for family in SMOOTH if family.is_convex]


def evidence(problem, order):
    return evidence_at_root(problem, solve(problem, FisherScoring()).value, order)


def log_prior_constant(problem):
    return 0.5 * problem.latent_dim * (problem.precision / (2 * math.pi)).log()


@every(SMOOTH, latent_dim=[1, 3])
def test_the_first_order_is_a_normal_integral_around_the_root(family, latent_dim):
    problem = random_problem(family, latent_dim)
    z = solve(problem, FisherScoring()).value
    half_log_det = 0.5 * torch.logdet(information_outside(problem, z))
    normal = 0.5 * latent_dim * math.log(2 * math.pi) - half_log_det
    expected = log_joint(problem, z) + log_prior_constant(problem) + normal
    torch.testing.assert_close(evidence(problem, 1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mode_log_density(problem, z), -normal, rtol=1e-5, atol=1e-5)


@every(CONVEX)
def test_the_second_order_is_closer_to_the_integral_over_one_latent(family):
    problem = random_problem(family, 1, num_rows=30)
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    with torch.no_grad():
        values = log_joint(problem, grid[:, None, None].expand(-1, 30, 1))
    exact = values.logsumexp(0) + (grid[1] - grid[0]).log() + log_prior_constant(problem)
    first, second = ((evidence(problem, order) - exact).abs().mean() for order in (1, 2))
    assert first < 0.1
    # Under a normal law both are exact.
    assert second < max(0.5 * first, 1e-9)


@every(CONVEX)
def test_both_orders_against_importance_draws(family):
    problem = random_problem(family, 2, num_rows=12)
    z = solve(problem, FisherScoring()).value
    factor = torch.linalg.cholesky(torch.linalg.inv(information_outside(problem, z)))
    noise = torch.randn(2000, 12, 2, dtype=torch.float64)
    draws = z + (factor @ noise.unsqueeze(-1)).squeeze(-1)
    log_density = -0.5 * noise.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    with torch.no_grad():
        joint = log_joint(problem, draws)
    log_weights = joint + log_prior_constant(problem) + math.log(2 * math.pi) - log_density
    weights = log_weights.exp()
    estimate = weights.mean(0).log()
    error = (weights.std(0) / weights.mean(0)).mean() / math.sqrt(2000)
    first, second = ((evidence(problem, order) - estimate).abs().mean() for order in (1, 2))
    assert first < 0.15 + 3 * error
    assert second < 0.05 + 3 * error


def check_gradients(family, order, fast_mode):
    problem = random_problem(family, 2, num_rows=2)
    if family.support is constraints.nonnegative:
        # Away from the edge of the support, where differences would leave it.
        problem = replace(problem, y=problem.y + 0.1)
    function = partial(evidence, order=order)
    assert gradcheck(*of_fields(problem, function), atol=1e-5, rtol=1e-4, fast_mode=fast_mode)


@every(SMOOTH, one_of_each_way, order=[1, 2])
def test_gradients_of_every_field_along_random_directions(family, order):
    check_gradients(family, order, fast_mode=True)


@pytest.mark.slow
@every(SMOOTH, order=[1, 2])
def test_gradients_of_every_field(family, order):
    check_gradients(family, order, fast_mode=False)
