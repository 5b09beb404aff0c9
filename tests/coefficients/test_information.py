"""The information of coefficients against dense Hessians by automatic differentiation."""

import pytest
import torch
from coefficient_problems import (
    MIXED,
    WITH_CATEGORIES,
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
    information_gradient,
    maximise_evidence,
    profile_information,
    weighted_information_gradient,
)
from pyro_expfam.coefficients.information import complete_information_gradient
from pyro_expfam.coefficients.information_gradient import KeptInformation
from pyro_expfam.deq import FisherScoring, LatentProblem, row_block

PRIOR = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("family", WITH_CATEGORIES, ids=str)
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


@pytest.mark.parametrize("family", WITH_CATEGORIES, ids=str)
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


@pytest.mark.parametrize("family", [pef.families.Poisson(), pef.families.Categorical(3)], ids=str)
def test_blocks_by_feature_are_those_of_the_whole(family):
    problem = random_problem(family)
    z, size = root(problem), 3 * family.predictors_per_column
    whole = evidence_information(problem, PRIOR, z)
    whole = whole.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    blocks = torch.stack([whole[i, :, i] for i in range(len(whole))])
    torch.testing.assert_close(information_by_feature(problem, PRIOR, z), blocks)


def test_information_of_two_levels_is_that_of_bits_of_their_difference():
    bits = random_problem(pef.families.Bernoulli())
    prior = torch.zeros(3, dtype=torch.float64)

    def two_levels(x, dim):
        return torch.stack([torch.zeros_like(x), x], dim).flatten(dim - 1, dim)

    problem = LatentProblem(
        pef.families.Categorical(2),
        torch.stack([1 - bits.y, bits.y], -1).flatten(-2),
        two_levels(bits.W, 1),
        two_levels(bits.b, 1),
        bits.precision,
        two_levels(bits.offset, 2),
        bits.weights.repeat_interleave(2, 1),
    )
    z = root(bits)
    torch.testing.assert_close(root(problem), z)
    found = evidence_information(problem, prior, z).view(6, 2, 3, 6, 2, 3)
    torch.testing.assert_close(
        found[:, 1, :, :, 1].reshape(18, 18), evidence_information(bits, prior, z)
    )
    # The evidence does not change along a number that is added to both levels.
    assert found.sum(1).abs().max() <= 1e-9 * found.abs().max()


def test_tiles_change_nothing(monkeypatch):
    problem = random_problem(pef.families.Bernoulli(), num_rows=50)
    z = root(problem)
    at_once = evidence_information(problem, PRIOR, z)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 1)
    torch.testing.assert_close(evidence_information(problem, PRIOR, z), at_once)


@pytest.mark.parametrize("family", WITH_CATEGORIES, ids=str)
def test_rotations_are_null_directions_at_the_maximum(family):
    prior = torch.tensor([1.0, 1.0, 1.0, 0.3], dtype=torch.float64)
    problem = random_problem(family, latent_dim=3, num_rows=80)
    problem, z = maximise_evidence(problem, prior, FisherScoring())
    information = evidence_information(problem, prior, z)
    rotations = gauge_directions(problem.W)
    assert rotations.shape[1] == 3
    assert (information @ rotations).norm() <= 1e-3 * information.norm()


@pytest.mark.parametrize("family", WITH_CATEGORIES, ids=str)
def test_gradient_of_weighted_information_is_that_of_finite_differences(family):
    problem = random_problem(family)
    weight = torch.randn(18, 18, dtype=torch.float64)
    weight = weight + weight.T
    direction = torch.randn(18, dtype=torch.float64)
    found = weighted_information_gradient(problem, weight, root(problem)).flatten() @ direction

    def weighted(step):
        there = at(problem, coefficients_of(problem) + step * direction)
        return (weight * evidence_information(there, PRIOR, root(there))).sum()

    step = 1e-4
    expected = (weighted(step) - weighted(-step)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 1 << 22], ids=["found anew", "kept"])
@pytest.mark.parametrize("tile", [1, 1 << 20])
def test_kept_information_and_its_gradient_are_those_found_alone(kept, tile, monkeypatch):
    problem = random_problem(pef.families.Poisson(), num_rows=50)
    z, weight = root(problem), torch.randn(18, 18, dtype=torch.float64)
    weight = weight + weight.T
    expected = weighted_information_gradient(problem, weight, z)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", tile)
    monkeypatch.setattr(information_gradient, "MOST_KEPT", kept)
    information = KeptInformation()
    found = information(problem, PRIOR, z)
    assert not found.requires_grad
    torch.testing.assert_close(found, evidence_information(problem, PRIOR, z))
    for _ in range(2):
        torch.testing.assert_close(information.weighted_gradient(weight), expected)


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


def test_categories_beside_other_columns_have_the_gradient_of_their_blocks():
    """The blocks of the laws alone, in the order of the predictors of the table."""
    problem = random_problem(MIXED, num_rows=30)
    z, blocks = root(problem), torch.randn(1, 18, 18, dtype=torch.float64)
    blocks = blocks + blocks.mT
    found = complete_information_gradient(problem, blocks, z)
    by_predictor = blocks[0].view(6, 3, 6, 3)
    for law, places in MIXED.predictor_parts():
        at = torch.arange(6)[places].view(-1, law.predictors_per_column)
        own = torch.stack([by_predictor[x][:, :, x].reshape(3 * len(x), -1) for x in at])
        alone = complete_information_gradient(problem.predictors(law, places), own, z)
        torch.testing.assert_close(found[at.flatten()], alone)


def test_gradient_of_complete_information_of_categories_is_that_of_autograd():
    problem = random_problem(pef.families.Categorical(3), num_rows=30)
    z = root(problem)
    blocks = torch.randn(2, 9, 9, dtype=torch.float64)
    blocks = blocks + blocks.mT
    design = torch.cat([z, torch.ones(30, 1).double()], 1)

    def weighted(coefficients):
        eta = design @ coefficients.T + problem.offset
        p = torch.softmax(eta.unflatten(1, (2, 3)), -1)
        covariance = torch.diag_embed(p) - p[..., None] * p[..., None, :]
        information = torch.einsum("scpq,sj,sk->scpjqk", covariance, design, design)
        traces = (information.reshape(30, 2, 9, 9) * blocks).sum((2, 3))
        return (problem.weights[:, ::3] * traces).sum()

    expected = torch.autograd.functional.jacobian(weighted, coefficients_of(problem).view(6, 3))
    torch.testing.assert_close(complete_information_gradient(problem, blocks, z), expected)
