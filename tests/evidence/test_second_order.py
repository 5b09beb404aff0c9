"""The second order: nearer to the integral than the first, with exact gradients."""

import pytest
import torch
from evidence_problems import (
    FAMILIES,
    SKEWED,
    importance_sampling,
    log_joint,
    quadrature,
    random_problem,
    root,
)
from quick_cases import in_turn
from scipy.integrate import quad
from torch.autograd import gradcheck

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem
from pyro_expfam.evidence import (
    laplace_evidence,
    second_order_covariance,
    second_order_mean,
    second_order_term,
)

ENOUGH = 4.0
"""How much nearer than the first order the second has to be, on average over rows."""


def test_quadrature_agrees_with_adaptive_integration():
    problem = random_problem(pef.families.Poisson(), latent_dim=1, num_rows=3)
    evidence, mean, _ = quadrature(problem)
    for s in range(3):
        row = problem.rows(slice(s, s + 1))

        def density(z, row=row, s=s):
            return float((log_joint(row, torch.tensor([[z]]).double()) - evidence[s]).exp())

        total, _ = quad(density, -8, 8, points=[float(mean[s])])
        first, _ = quad(lambda z: z * density(z), -8, 8, points=[float(mean[s])])
        assert abs(total - 1) < 1e-6
        assert abs(first - float(mean[s])) < 1e-6


@pytest.mark.parametrize(
    ("family", "latent_dim", "num_features"), in_turn(SKEWED, [1, 2], [25, 60])
)
def test_the_second_order_is_much_nearer_to_the_integral(family, latent_dim, num_features):
    problem = random_problem(family, latent_dim, num_rows=30, num_features=num_features)
    evidence, mean, covariance = quadrature(problem)
    z = root(problem)
    first = laplace_evidence(problem, z)
    second = first + second_order_term(problem, z)
    error = (first - evidence).abs().mean(), (second - evidence).abs().mean()
    assert error[1] < error[0] / ENOUGH
    corrected = second_order_mean(problem, z)
    assert (corrected - mean).abs().mean() < (z - mean).abs().mean() / ENOUGH
    laplace = torch.linalg.inv(problem.information(z))
    corrected = second_order_covariance(problem, z)
    size = (laplace - covariance).abs().mean()
    assert (corrected - covariance).abs().mean() < size / ENOUGH


@pytest.mark.parametrize("family", SKEWED, ids=str)
def test_the_error_falls_with_the_square_of_the_information(family):
    errors = []
    base = random_problem(family, latent_dim=2, num_rows=10, num_features=12)
    for times in (8.0, 16.0):
        # Every entry is seen so many times, and the prior keeps its share.
        weights = torch.full((1, 12), times).double()
        problem = LatentProblem(
            family, base.y, base.W, base.b, times * base.precision, weights=weights
        )
        evidence, mean, _ = quadrature(problem)
        z = root(problem)
        first = laplace_evidence(problem, z) - evidence
        errors.append(
            torch.stack(
                [
                    first.abs().mean(),
                    (first + second_order_term(problem, z)).abs().mean(),
                    (second_order_mean(problem, z) - mean).abs().mean(),
                ]
            )
        )
    order = (errors[0] / errors[1]).log2()
    torch.testing.assert_close(order, torch.tensor([1.0, 2.0, 2.0]).double(), rtol=0.0, atol=0.3)


def test_the_term_is_the_sum_over_all_indices():
    problem = random_problem(pef.families.Poisson(), latent_dim=4, num_rows=3)
    z = root(problem)
    W, eta = problem.W, problem.predictor(z)
    C = torch.linalg.inv(problem.information(z))
    third = torch.einsum("si,ia,ib,ic->sabc", eta.exp(), W, W, W)
    fourth = torch.einsum("si,ia,ib,ic,id->sabcd", eta.exp(), W, W, W, W)
    expected = (
        -torch.einsum("sabcd,sab,scd->s", fourth, C, C) / 8
        + torch.einsum("sabc,sdef,sab,scd,sef->s", third, third, C, C, C) / 8
        + torch.einsum("sabc,sdef,sad,sbe,scf->s", third, third, C, C, C) / 12
    )
    torch.testing.assert_close(second_order_term(problem, z), expected)
    shift = -0.5 * torch.einsum("sab,sbcd,scd->sa", C, third, C)
    torch.testing.assert_close(second_order_mean(problem, z) - z, shift)


def test_gaussian_tables_have_no_second_order():
    problem = random_problem(pef.families.Gaussian(0.7), latent_dim=3)
    z = root(problem)
    assert (second_order_term(problem, z) == 0).all()
    assert (second_order_mean(problem, z) == z).all()


@pytest.mark.parametrize(
    ("family", "latent_dim", "function"),
    in_turn(FAMILIES, [1, 2, 3], [second_order_term, second_order_mean]),
)
def test_gradients_pass_gradcheck(family, latent_dim, function):
    problem = random_problem(family, latent_dim, num_rows=4, num_features=5, precision=0.7)
    rows = torch.randn(4, 1).double(), 0.1 + torch.rand(4, 5).double()
    fields = (problem.W, problem.b, problem.precision, *rows)

    def term(*fields):
        rebuilt = LatentProblem(family, problem.y, *fields)
        return function(rebuilt, root(rebuilt))

    assert gradcheck(term, tuple(x.requires_grad_() for x in fields), fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "num_features", "latent_dim"),
    [
        (pef.families.Bernoulli(), 30, 2),
        (pef.families.Bernoulli(), 30, 5),
        (pef.families.Bernoulli(), 100, 5),
        (pef.families.Poisson(), 30, 5),
    ],
    ids=str,
)
def test_errors_against_importance_sampling(family, num_features, latent_dim):
    problem = random_problem(family, latent_dim, num_rows=100, num_features=num_features)
    z = root(problem)
    reference = importance_sampling(problem)
    first = laplace_evidence(problem, z)
    second = first + second_order_term(problem, z)
    error = (first - reference).abs().mean(), (second - reference).abs().mean()
    print(f"{family}, {num_features}, {latent_dim}: {error[0]:.4f}, {error[1]:.4f}")
    assert error[0] < 0.07
    assert error[1] < 0.007


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_corrected_covariances_are_positive_definite(family):
    # Two entries a row and wide loadings: the correction is as large as what it corrects.
    problem = random_problem(family, 3, num_features=2, loading_scale=4.0)
    covariance = second_order_covariance(problem, root(problem))
    assert torch.equal(
        torch.linalg.cholesky_ex(covariance).info, torch.zeros(20, dtype=torch.int32)
    )
    if family == FAMILIES[0]:
        exact = torch.linalg.inv(problem.information(root(problem)))
        torch.testing.assert_close(covariance, exact)
