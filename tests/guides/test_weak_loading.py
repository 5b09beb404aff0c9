"""The weakly informative priors of columns in units of their own, and of mixed tables."""

import math
import warnings

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.coefficients import posterior_at_maximum
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq.layer import make_problem
from pyro_expfam.joint import JointProblem, TableInMemory

F = pef.families
MIXED = F.Columns(
    {
        "weight": F.Gaussian(),
        "smoker": F.Bernoulli(),
        "visits": F.Poisson(),
        "size": F.Gaussian(),
        "colour": F.Categorical(3),
    }
)


def real_table(noise, num_rows=400, num_features=6):
    z, W = torch.randn(num_rows, 2).double(), torch.randn(2, num_features).double()
    return z @ W + noise * torch.randn(num_rows, num_features).double()


def mixed_table(num_rows=200):
    eta = torch.randn(num_rows, 2) @ torch.randn(2, 5)
    columns = [
        70 + eta[:, 0] + 0.1 * torch.randn(num_rows),
        torch.bernoulli(eta[:, 1].sigmoid()),
        torch.poisson(eta[:, 2].clamp(max=3).exp()),
        0.01 * eta[:, 3] + 0.001 * torch.randn(num_rows),
        torch.randint(3, (num_rows,)).float(),
    ]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("noise", [0.5, 0.05, 0.002])
def test_a_learnt_noise_is_the_noise_of_probabilistic_pca_however_small(noise):
    """Tipping and Bishop: the mean of the eigenvalues that the latents leave."""
    y = real_table(noise)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Gaussian(), 6, 2).double())
    assert guide.fit(y, tol=1e-10).converged
    left = torch.linalg.eigvalsh(torch.cov(y.T, correction=0))[:4].mean().sqrt()
    assert float(guide.model.family_scale) == pytest.approx(float(left), rel=2e-3)


@pytest.mark.parametrize("far", [1e6, 1e9])
def test_the_noise_of_columns_far_from_zero_is_the_noise_of_centred_columns(far):
    y = real_table(0.1, num_rows=100, num_features=4)
    found = []
    for shift in (0.0, 0.1 * far * torch.tensor([1.0, -1.0, 0.5, 0.0]).double()):
        guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Gaussian(), 4, 1).double())
        assert guide.fit(y + shift, tol=1e-10).converged
        found.append(float(guide.model.family_scale))
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_every_law_of_a_mixed_table_has_its_own_scales():
    model = pef.ExpFamPCA(MIXED, latent_dim=2)
    assert model.loading_scale[:, 0].tolist() == [1000.0, 1.0, 1.0, 1000.0, 1.0, 1.0, 1.0]
    assert model.intercept_scale.tolist() == [1e10, 10.0, 10.0, 1e10, 10.0, 10.0, 10.0]
    counts = pef.ExpFamPCA(F.Columns({"a": F.Poisson(), "b": F.Bernoulli()}), latent_dim=1)
    assert counts.loading_scale.dim() == counts.intercept_scale.dim() == 0
    model.loading_scale = torch.tensor(2.0)
    model.intercept_scale = torch.tensor(3.0)
    assert model.coefficient_precision().tolist() == pytest.approx([0.25, 0.25, 1 / 9])


def test_draws_from_the_prior_of_a_mixed_table_have_log_densities():
    family = F.Columns({"a": F.Gaussian(), "b": F.Bernoulli(), "c": F.Poisson()})
    y = mixed_table()[:, :3]
    model = pef.ExpFamPCA(family, latent_dim=1)
    guide = pef.LaplaceGuide(model)
    guide.fit(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pef.to_arviz(model, guide, y, num_samples=50)
    assert bool((found.prior_predictive["y"].notnull()).all())


def objectives(loading_precision, intercept_precision):
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 5))).double()
    table = TableInMemory(F.Poisson(), 5, y, y)
    precision = torch.ones(()).double()
    for kind in (JointProblem, EvidenceProblem):
        yield kind(table, precision, loading_precision, intercept_precision)


BY_COLUMN = (
    torch.tensor([0.1, 1.0, 3.0, 0.5, 2.0]).double()[:, None],
    torch.tensor([0.2, 0.01, 1.0, 0.0, 4.0]).double(),
)


def test_objectives_with_scales_by_column_have_their_gradient_and_their_basis():
    solver = pef.deq.FisherScoring(tol=1e-12)
    for objective in objectives(*BY_COLUMN):
        coefficients = 0.3 * torch.randn(5, 3).double()
        z = torch.zeros(40, 2).double()
        found = objective.columns(coefficients, z, solver)
        step = 1e-5
        for place in [(0, 0), (3, 1), (4, 2)]:
            ends = []
            for sign in (1, -1):
                moved = coefficients.clone()
                moved[place] += sign * step
                ends.append(objective.columns(moved, z.clone(), solver).objective)
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(found.gradient[place]) == pytest.approx(slope, rel=1e-4, abs=1e-4)
        turned, z_turned = objective.change_basis(coefficients, z)
        assert objective.value(turned, z_turned) <= objective.value(coefficients, z) + 1e-9
        design, other = (torch.nn.functional.pad(x, (0, 1), value=1.0) for x in (z, z_turned))
        torch.testing.assert_close(other @ turned.T, design @ coefficients.T)


def test_the_basis_of_a_joint_fit_is_stationary_under_scales_by_column():
    """No further change of scale or location of the latents lowers the penalties."""
    joint, _ = objectives(*BY_COLUMN)
    coefficients = torch.randn(5, 3).double()
    z = torch.randn(40, 2).double()
    for _ in range(40):
        coefficients, z = joint.change_basis(coefficients, z)
    W, b = coefficients[:, :-1], coefficients[:, -1]
    R = torch.eye(2).double().requires_grad_()
    c = torch.zeros(2).double().requires_grad_()
    moved = torch.cat([W @ torch.linalg.inv(R).T, (b + W @ c)[:, None]], 1)
    precision = joint.coefficient_precision(coefficients)
    penalty = (precision * moved.square()).sum() + ((z - c) @ R).square().sum()
    slopes = torch.autograd.grad(penalty, (R, c))
    assert all(float(x.abs().max()) < 1e-6 for x in slopes)


def test_equal_scales_by_column_are_one_scale():
    y = torch.poisson(torch.exp(torch.randn(40, 1) @ torch.randn(1, 5))).double()
    W, b = 0.5 * torch.randn(5, 1).double(), torch.zeros(5).double()
    problem, solver = make_problem(F.Poisson(), y, W, b, 1.0), pef.deq.FisherScoring()
    free = torch.ones(2, dtype=torch.bool)
    prior = torch.tensor([2.0, 3.0]).double()
    found = [posterior_at_maximum(problem, x, solver, free)[2] for x in (prior, prior.expand(5, 2))]
    for name in ("mode", "mean", "score_covariance", "log_det_information"):
        torch.testing.assert_close(*(getattr(x, name) for x in found))


@pytest.mark.slow
def test_a_mixed_table_of_small_noise_is_fitted_with_its_noise():
    y = mixed_table(400).double()[:, :4]
    family = F.Columns({"a": F.Gaussian(), "b": F.Bernoulli(), "c": F.Poisson(), "d": F.Gaussian()})
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=2).double())
    flat = pef.LaplaceGuide(
        pef.ExpFamPCA(family, latent_dim=2, loading_scale=None, intercept_scale=None).double()
    )
    evidence = []
    for each in (guide, flat):
        assert each.fit(y).converged
        evidence.append(float(each.log_evidence(y).sum()))
    assert math.isclose(*evidence, abs_tol=1.5)
