"""Log determinants without a matrix are the exact ones, within their standard errors."""

from dataclasses import replace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem, NewtonCG
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import (
    evidence_at_root,
    laplace_evidence,
    log_determinant,
    mode_log_density,
)

UP = pef.linear.ConvTranspose2d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 4, 4))
FREE = replace(UP, dense_latents=0)


def random_problem(convolution=FREE, num_rows=40, scale=0.5):
    family = pef.families.Poisson()
    kernel = scale * torch.randn(convolution.kernel_shape).double()
    b = 0.3 * torch.randn(convolution.num_features).double()
    eta = convolution.map(kernel)(torch.randn(num_rows, convolution.latent_dim).double()) + b
    y = family.sample(eta.clamp(-3, 3))
    return LatentProblem(family, y, convolution.map(kernel), b, torch.tensor(0.7).double())


def dense(problem):
    return replace(problem, map=UP.map(problem.map.kernel.reshape(UP.kernel_shape)))


def test_log_determinants_are_exact_within_their_standard_errors():
    problem = random_problem()
    z = solve(problem, NewtonCG()).value
    found = log_determinant(problem, z)
    error = (found.value - torch.logdet(dense(problem).information(z))) / found.standard_error
    # Sixteen numbers estimate a standard error: their ratio has the t law with 15 degrees.
    assert error.abs().max() < 4.5
    assert 0.7 < error.std() < 1.4
    assert error.mean().abs() < 4 / 40**0.5
    assert torch.equal(log_determinant(problem, z).value, found.value)


def test_more_random_vectors_make_the_error_smaller():
    problem = random_problem(num_rows=20)
    z = solve(problem, NewtonCG()).value
    few, many = (log_determinant(problem, z, num_probes=n).standard_error.mean() for n in (8, 64))
    assert many < 0.5 * few


def test_a_diagonal_information_is_exact():
    apart = pef.linear.ConvTranspose2d(1, 1, 2, stride=2, latent_shape=(1, 3, 3), dense_latents=0)
    problem = random_problem(apart)
    z = solve(problem, NewtonCG()).value
    found = log_determinant(problem, z)
    exact = problem.curvatures(problem.predictor(z)) @ apart_squares(problem) + 0.7
    torch.testing.assert_close(found.value, exact.log().sum(-1))
    torch.testing.assert_close(found.standard_error, torch.zeros(40).double())


def apart_squares(problem):
    return (
        replace(problem.map.convolution, dense_latents=9)
        .map(problem.map.kernel.reshape(1, 1, 2, 2))
        .loading.square()
    )


def test_the_gradient_is_right_on_average():
    problem = random_problem(num_rows=60)
    names = ("kernel", "b", "precision")
    gradients = []
    for each in (problem, dense(problem)):
        fields = {name: each.fields[name].clone().requires_grad_() for name in names}
        at = each.with_fields(fields)
        z = solve(at, NewtonCG(tol=1e-10)).value
        repeats = 2 if each is problem else 1
        value = sum(mode_log_density(at, z).sum() for _ in range(repeats)) / repeats
        gradients.append(torch.autograd.grad(value, list(fields.values())))
    for found, exact in zip(*gradients, strict=True):
        assert (found - exact).norm() < 0.1 * exact.norm()


def test_the_evidence_is_the_exact_one_within_its_standard_error():
    problem = random_problem()
    z = solve(problem, NewtonCG()).value
    found, exact = laplace_evidence(problem, z), laplace_evidence(dense(problem), z)
    error = 0.5 * log_determinant(problem, z).standard_error
    assert ((found - exact) / error).abs().max() < 4.5
    with pytest.raises(ValueError, match="linear_map must have a matrix for the second order"):
        evidence_at_root(problem, z, order=2)
