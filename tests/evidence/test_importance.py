"""Importance sampling: the integral it estimates, honest errors, and what it says of Laplace."""

import pytest
import torch
from evidence_problems import (
    FAMILIES,
    SKEWED,
    importance_sampling,
    quadrature,
    random_problem,
    root,
)
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem, row_block
from pyro_expfam.evidence import (
    importance_evidence,
    importance_latents,
    khat_threshold,
    laplace_evidence,
    resample_latents,
    sample_evidence,
)


def arguments(family, **sizes):
    problem = random_problem(family, **sizes)
    return family, problem.y, problem.W, problem.b


def test_gaussian_rows_have_constant_weights_and_their_exact_evidence():
    family, y, W, b = arguments(pef.families.Gaussian(0.7), latent_dim=3)
    found = importance_evidence(family, y, W, b, num_draws=100)
    covariance = 0.49 * (W @ W.T + torch.eye(len(W)).double())
    exact = torch.distributions.MultivariateNormal(0.7 * b, covariance).log_prob(y)
    torch.testing.assert_close(found.log_evidence, exact)
    assert (found.khat == -torch.inf).all()
    assert float(found.standard_error.max()) < 1e-10
    assert float(found.correction.abs().max()) < 1e-10


@pytest.mark.parametrize(("family", "num_features"), in_turn(SKEWED, [12, 40]))
def test_the_estimate_is_the_integral_within_its_error(family, num_features):
    problem = random_problem(family, latent_dim=1, num_rows=100, num_features=num_features)
    exact, *_ = quadrature(problem, num_nodes=60)
    z = root(problem)
    found = sample_evidence(problem, z, num_draws=4000)
    reliable = found.khat < 0.6
    error = ((found.log_evidence - exact) / found.standard_error)[reliable]
    assert float(reliable.double().mean()) > 0.8
    assert float(error.abs().max()) < 4.5
    torch.testing.assert_close(found.correction, found.log_evidence - laplace_evidence(problem, z))


@pytest.mark.parametrize(
    "family",
    [pef.families.Bernoulli(), pytest.param(pef.families.Poisson(), marks=pytest.mark.slow)],
    ids=str,
)
def test_standard_errors_are_the_spread_of_repetitions(family):
    row = random_problem(family, latent_dim=2, num_rows=1, num_features=40)
    repeated = LatentProblem(family, row.y.expand(2000, -1), row.W, row.b, row.precision)
    found = sample_evidence(repeated, root(row).expand(2000, -1), num_draws=500)
    spread = float(found.log_evidence.std())
    mean = found.standard_error.square().mean().sqrt()
    assert spread == pytest.approx(float(mean), rel=0.1)
    exact, *_ = quadrature(row)
    within = (found.log_evidence - exact).abs() < 2 * found.standard_error
    assert 0.92 < float(within.double().mean()) < 0.98


def test_khat_tells_few_features_and_rare_events_from_many_features():
    family = pef.families.Bernoulli()
    flagged, laplace_error = [], []
    for num_features, latent_dim, scale, intercept in ((6, 4, 10.0, -3.0), (200, 3, 0.6, 0.0)):
        W = scale * torch.randn(num_features, latent_dim).double()
        b = torch.full((num_features,), intercept).double()
        y = family.sample(torch.randn(60, latent_dim).double() @ W.T + b)
        problem = LatentProblem(family, y, W, b, torch.tensor(1.0).double())
        found = sample_evidence(problem, root(problem))
        exact = importance_sampling(problem, num_draws=4000)
        flagged.append(float((found.khat > khat_threshold(1000)).double().mean()))
        laplace_error.append(float((laplace_evidence(problem, root(problem)) - exact).abs().mean()))
    assert flagged[0] > 0.4
    assert laplace_error[0] > 0.2
    assert flagged[1] < 0.05
    assert laplace_error[1] < 0.03


@pytest.mark.parametrize("family", SKEWED, ids=str)
def test_resampled_latents_have_the_moments_of_the_posterior(family):
    problem = random_problem(family, latent_dim=2, num_rows=10, num_features=20)
    _, mean, covariance = quadrature(problem)
    z = root(problem)
    draws = resample_latents(problem, z, num_samples=20_000, num_draws=20_000)
    assert draws.shape == (20_000, 10, 2)
    error = (draws.mean(0) - mean) / draws.std(0)
    # Both the proposals and the choice among them are random.
    assert float(error.abs().max()) < 5 * (2 / 20_000) ** 0.5
    shift = ((z - mean) / draws.std(0)).abs().mean()
    assert float(error.abs().mean()) < float(shift)
    deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(draws.std(0), deviation, rtol=0.06, atol=0.0)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_offsets_precisions_and_dtypes(family, dtype):
    problem = random_problem(family, num_rows=8, dtype=dtype)
    y = problem.y
    mask = torch.rand(8, 12) < 0.7
    mask[3] = False
    settings = {"precision": 0.6, "offset": 0.2 * torch.randn(8, 1), "mask": mask}
    found = importance_evidence(family, y, problem.W, problem.b, **settings)
    expected = pef.log_evidence(family, y, problem.W, problem.b, order=2, **settings)
    assert all(values.dtype == dtype and values.shape == (8,) for values in found)
    assert float((found.log_evidence - expected).abs().max()) < 0.1
    assert found.khat[3] == -torch.inf
    assert float(found.log_evidence[3].abs()) < 1e-6
    latents = importance_latents(family, y, problem.W, problem.b, num_samples=7, **settings)
    assert latents.shape == (7, 8, 2)
    assert latents.dtype == dtype


def test_batches_are_estimated_one_by_one():
    family, y, W, b = arguments(pef.families.Poisson(), num_rows=6)
    W = torch.stack([W, 0.5 * W])
    found = importance_evidence(family, y, W, b, num_draws=2000)
    assert found.khat.shape == (2, 6)
    expected = pef.log_evidence(family, y, W, b, order=2)
    assert float(((found.log_evidence - expected).abs() / found.standard_error).max()) < 6
    assert importance_latents(family, y, W, b, num_samples=3).shape == (3, 2, 6, 2)


@pytest.mark.parametrize("entries", [200, 5_000, 50_000])
def test_no_more_than_a_tile_is_in_memory(entries, monkeypatch):
    family = pef.families.Bernoulli()
    problem = random_problem(family, num_rows=9, num_features=30)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", entries)
    monkeypatch.setattr(row_block, "SMALLEST_TILE", 1)
    largest = 0
    evaluate = LatentProblem.predictor

    def watched(self, z):
        nonlocal largest
        eta = evaluate(self, z)
        largest = max(largest, eta.numel())
        return eta

    z = root(problem)
    expected = pef.log_evidence(family, problem.y, problem.W, problem.b, order=2)
    monkeypatch.setattr(LatentProblem, "predictor", watched)
    found = sample_evidence(problem, z, num_draws=400)
    assert largest <= 2 * entries
    assert float((found.log_evidence - expected).abs().max()) < 0.1


def test_latents_beside_the_root_give_the_same_evidence():
    problem = random_problem(pef.families.Poisson(), num_rows=20)
    exact, *_ = quadrature(problem)
    found = sample_evidence(problem, root(problem) + 0.1, num_draws=4000)
    assert float(((found.log_evidence - exact) / found.standard_error).abs().max()) < 4.5


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_draws": 49}, ValueError, "num_draws must be a whole number of at least 50, got 49"),
        ({"num_draws": 1e3}, ValueError, "num_draws must be a whole number"),
        ({"y": torch.full((2, 3), 0.5)}, ValueError, "y must be in the support"),
    ],
)
@pytest.mark.parametrize("function", [importance_evidence, importance_latents])
def test_bad_input_is_refused_by_name(function, changed, error, message):
    settings = {"y": torch.ones(2, 3), "W": torch.ones(3, 2), "b": torch.zeros(3), **changed}
    with pytest.raises(error, match=message):
        function(pef.families.Bernoulli(), **settings)


def test_num_samples_is_checked():
    problem = random_problem(pef.families.Poisson())
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1, got 0"):
        resample_latents(problem, root(problem), num_samples=0)


def test_a_row_of_a_test_whose_weights_hardly_vary_is_reliable():
    # Thirteen answers, of which few tell people apart.
    W, b = 0.2 * torch.randn(13, 1), torch.randn(13)
    family = pef.families.Bernoulli()
    y = family.sample(torch.randn(300, 1) @ W.T + b)
    found = importance_evidence(family, y, W, b)
    assert float(found.standard_error.max()) < 1e-3
    assert (found.khat == -torch.inf).all()
    assert (found.khat <= khat_threshold(1000)).all()


@pytest.mark.parametrize(
    ("num_draws", "expected"), [(100, 0.5), (1000, 2 / 3), (2154, 0.7), (10**4, 0.7), (10**6, 0.7)]
)
def test_the_largest_reliable_shape_grows_with_the_draws_to_seven_tenths(num_draws, expected):
    assert khat_threshold(num_draws) == pytest.approx(expected, abs=1e-4)
