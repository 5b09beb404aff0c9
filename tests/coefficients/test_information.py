"""The information of coefficients against dense Hessians by automatic differentiation."""

import pytest
import torch
from coefficient_problems import (
    FAMILIES,
    at,
    coefficients_of,
    evidence_objective,
    joint_objective,
    random_problem,
    root,
)
from torch.autograd.functional import hessian

import pyro_expfam as pef
from pyro_expfam.coefficients import (
    evidence_information,
    gauge_directions,
    information_by_feature,
    maximise_evidence,
    profile_information,
    weighted_information_gradient,
)
from pyro_expfam.coefficients.information import complete_information_gradient
from pyro_expfam.deq import FisherScoring, row_block

PRIOR = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_profile_information_is_the_schur_complement_of_the_joint_hessian(family):
    problem = random_problem(family)
    z, coefficients = root(problem), coefficients_of(problem)
    size = len(coefficients)

    def objective(everything):
        latents = everything[size:].view(z.shape)
        return joint_objective(problem, PRIOR, everything[:size], latents)

    dense = hessian(objective, torch.cat([coefficients, z.flatten()]))
    cross = dense[:size, size:]
    schur = dense[:size, :size] - cross @ torch.linalg.solve(dense[size:, size:], cross.T)
    torch.testing.assert_close(profile_information(problem, PRIOR, z), schur)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_evidence_information_is_the_hessian_of_the_evidence(family):
    problem = random_problem(family)
    expected = hessian(
        lambda coefficients: evidence_objective(problem, PRIOR, coefficients),
        coefficients_of(problem),
    )
    torch.testing.assert_close(evidence_information(problem, PRIOR, root(problem)), expected)


def test_evidence_information_of_one_gaussian_latent_is_that_of_its_marginal_likelihood():
    problem = random_problem(pef.families.Gaussian(1.0), latent_dim=1, num_rows=30)
    prior = torch.tensor([0.5, 0.0], dtype=torch.float64)

    def objective(coefficients):
        w, b = coefficients.view(-1, 2).T
        total = 0.25 * w.square().sum()
        for y, offset, kept in zip(problem.y, problem.offset, problem.weights.bool(), strict=True):
            covariance = torch.outer(w, w) / problem.precision + torch.eye(len(w)).double()
            law = torch.distributions.MultivariateNormal(
                (b + offset)[kept], covariance[kept][:, kept]
            )
            total = total - law.log_prob(y[kept])
        return total

    expected = hessian(objective, coefficients_of(problem))
    torch.testing.assert_close(evidence_information(problem, prior, root(problem)), expected)


def test_blocks_by_feature_are_those_of_the_whole():
    problem = random_problem(pef.families.Poisson())
    z = root(problem)
    whole = evidence_information(problem, PRIOR, z).view(6, 3, 6, 3)
    blocks = torch.stack([whole[i, :, i] for i in range(6)])
    torch.testing.assert_close(information_by_feature(problem, PRIOR, z), blocks)


def test_tiles_change_nothing(monkeypatch):
    problem = random_problem(pef.families.Bernoulli(), num_rows=50)
    z = root(problem)
    at_once = evidence_information(problem, PRIOR, z)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 1)
    torch.testing.assert_close(evidence_information(problem, PRIOR, z), at_once)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_rotations_are_null_directions_at_the_maximum(family):
    prior = torch.tensor([1.0, 1.0, 1.0, 0.3], dtype=torch.float64)
    problem = random_problem(family, latent_dim=3, num_rows=80)
    problem, z = maximise_evidence(problem, prior, FisherScoring())
    information = evidence_information(problem, prior, z)
    rotations = gauge_directions(problem.W)
    assert rotations.shape[1] == 3
    assert (information @ rotations).norm() <= 1e-3 * information.norm()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradient_of_weighted_information_is_that_of_finite_differences(family):
    problem = random_problem(family, num_features=4)
    weight = torch.randn(12, 12, dtype=torch.float64)
    weight = weight + weight.T
    direction = torch.randn(12, dtype=torch.float64)
    found = weighted_information_gradient(problem, weight, root(problem)).flatten() @ direction

    def weighted(step):
        there = at(problem, coefficients_of(problem) + step * direction)
        return (weight * evidence_information(there, PRIOR, root(there))).sum()

    step = 1e-4
    expected = (weighted(step) - weighted(-step)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradient_of_complete_information_is_that_of_regressions_on_the_latents():
    problem = random_problem(pef.families.Bernoulli(), num_rows=30)
    z = root(problem)
    blocks = torch.randn(6, 3, 3, dtype=torch.float64)
    blocks = blocks + blocks.mT
    design = torch.cat([z, torch.ones(30, 1).double()], 1)

    def weighted(coefficients):
        eta = design @ coefficients.T + problem.offset
        weight = problem.weights * torch.sigmoid(eta) * torch.sigmoid(-eta)
        return torch.einsum("si,sj,sk,ijk->", weight, design, design, blocks)

    coefficients = coefficients_of(problem).view(6, 3)
    expected = torch.autograd.functional.jacobian(weighted, coefficients)
    found = complete_information_gradient(problem, blocks, z)
    torch.testing.assert_close(found, expected)
