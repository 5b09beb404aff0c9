"""Priors of latents with means and a precision matrix."""

import pytest
import torch
from quick_cases import in_turn
from scipy.optimize import minimize

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence import (
    integrate_evidence,
    mode_log_density,
    sample_evidence,
    second_order_covariance,
    second_order_mean,
)
from pyro_expfam.evidence.row_evidence import evidence_at_root

F = pef.families
FAMILIES = [F.Bernoulli(), F.Poisson(), F.Gaussian(0.7), F.Gamma(2.0), F.NegativeBinomial(3.0)]
NUM_ROWS, NUM_FEATURES, LATENTS = 9, 5, 2
every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def fields(family, dtype=torch.float64, seed=0):
    """Random tensors of a problem: loading, intercept, precision, mean and factor of the prior."""
    torch.manual_seed(seed)
    W = 0.6 * torch.randn(NUM_FEATURES, LATENTS, dtype=dtype)
    b = 0.3 * torch.randn(NUM_FEATURES, dtype=dtype)
    loc = torch.randn(NUM_ROWS, LATENTS, dtype=dtype)
    factor = torch.tensor([[1.3, 0.0], [0.5, 0.8]], dtype=dtype)
    y = family.sample(loc @ W.mT + b)
    return y, W, b, torch.tensor(1.7, dtype=dtype), loc, factor


def problem_of(family, y, W, b, precision, loc=None, factor=None):
    return LatentProblem(family, y, Dense(W), b, precision, loc=loc, precision_factor=factor)


def root(problem):
    return solve(problem, make_solver()).value


@every_family
def test_the_root_is_the_mode_of_the_log_density(family):
    y, W, b, precision, loc, factor = fields(family)
    z = root(problem_of(family, y, W, b, precision, loc, factor))
    covariance = torch.linalg.inv(precision * factor @ factor.mT)
    for row in range(0, NUM_ROWS, 3):
        prior = torch.distributions.MultivariateNormal(loc[row], covariance)

        def minus_log_joint(x, row=row, prior=prior):
            at = torch.as_tensor(x).double()
            eta = at @ W.mT + b
            return float(-prior.log_prob(at) - family.log_prob(y[row], eta).sum())

        found = minimize(minus_log_joint, [0.0] * LATENTS, method="Nelder-Mead", tol=1e-10)
        assert minus_log_joint(z[row].numpy()) <= found.fun + 1e-9
        assert torch.allclose(z[row], torch.as_tensor(found.x).double(), atol=1e-4)


@every_family
@every_dtype
@pytest.mark.parametrize("with_factor", [False, True])
def test_kernels_find_the_root_of_the_reference(family, dtype, with_factor):
    y, W, b, precision, loc, factor = fields(family, dtype, seed=1)
    problem = problem_of(family, y, W, b, precision, loc, factor if with_factor else None)
    reference = solve(problem.double(), pef.deq.FisherScoring(compiled=False)).value
    solution = solve(problem, make_solver())
    assert bool(solution.converged.all())
    assert torch.allclose(solution.value.double(), reference, atol=2e-5)


def test_a_mean_is_a_shift_of_latents_with_an_offset():
    family = F.Poisson()
    y, W, b, precision, loc, _ = fields(family)
    shifted = LatentProblem(family, y, Dense(W), b, precision, offset=loc @ W.mT)
    assert torch.allclose(root(problem_of(family, y, W, b, precision, loc)), root(shifted) + loc)


@pytest.mark.parametrize(("family", "with_factor"), in_turn(FAMILIES, [True, False]))
def test_gradients_are_those_of_finite_differences(family, with_factor):
    y, *tensors = fields(family)
    tensors = [x.requires_grad_() for x in (tensors if with_factor else tensors[:-1])]

    def at(*tensors):
        factor = tensors[4].tril() if with_factor else None
        problem = problem_of(family, y, *tensors[:4], factor)
        z = root(problem)
        return (
            z,
            evidence_at_root(problem, z, 1),
            evidence_at_root(problem, z, 2),
            mode_log_density(problem, z),
        )

    assert torch.autograd.gradcheck(at, tensors, fast_mode=True)


@every_family
def test_evidence_is_that_of_quadrature_and_importance_sampling(family):
    torch.manual_seed(3)
    y, *tensors = fields(family, seed=3)
    problem = problem_of(family, y, *tensors)
    z = root(problem)
    exact = integrate_evidence(problem, z)
    first, second = ((evidence_at_root(problem, z, k) - exact).abs().max() for k in (1, 2))
    assert second <= max(0.2 * float(first), 1e-9)
    sampled = sample_evidence(problem, z, 4000)
    assert bool(((sampled.log_evidence - exact).abs() <= 5 * sampled.standard_error + 1e-9).all())


def test_a_gaussian_posterior_is_exact():
    family = F.Gaussian(0.7)
    y, W, b, precision, loc, factor = fields(family)
    problem = problem_of(family, y, W, b, precision, loc, factor)
    prior = precision * factor @ factor.mT
    # In units of the noise the predictor is the mean of y divided by the scale.
    noise, loading = 1.0, W
    posterior = prior + loading.mT @ loading / noise
    residual = y / 0.7 - b
    mean = torch.linalg.solve(posterior, (residual @ loading + loc @ prior).mT).mT
    z = root(problem)
    assert torch.allclose(z, mean)
    assert torch.allclose(second_order_mean(problem, z), mean)
    covariance = second_order_covariance(problem, z)
    assert torch.allclose(covariance, torch.linalg.inv(posterior).expand_as(covariance))


def test_the_prior_of_a_row_without_entries_is_its_posterior():
    family = F.Bernoulli()
    y, W, b, precision, loc, factor = fields(family)
    weights = torch.ones_like(y)
    weights[0] = 0.0
    problem = LatentProblem(
        family, y, Dense(W), b, precision, weights=weights, loc=loc, precision_factor=factor
    )
    z = root(problem)
    assert torch.allclose(z[0], loc[0])
    assert torch.allclose(problem.information(z)[0], precision * factor @ factor.mT)
    assert abs(float(evidence_at_root(problem, z, 2)[0])) < 1e-12
