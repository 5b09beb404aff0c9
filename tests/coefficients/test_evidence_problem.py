"""The evidence as an objective of a fit: its value, gradient and information, and its maximum."""

import math

import pytest
import torch
from coefficient_problems import FAMILIES, coefficients_of, log_prior, random_problem, root
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem, maximise_evidence
from pyro_expfam.coefficients.information import complete_information
from pyro_expfam.deq import FisherScoring, row_block
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.joint import TableInMemory, fit_coefficients

SOLVER = FisherScoring()
PRIOR = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)


def table_of(problem, dtype=torch.float64):
    family = problem.family
    return TableInMemory(
        family,
        len(problem.b),
        problem.b.to(dtype),
        problem.y,
        problem.offset,
        weights=problem.weights,
    )


def evidence_problem(problem, dtype=torch.float64, **settings):
    precision = problem.precision.to(dtype)
    return EvidenceProblem(
        table_of(problem, dtype), precision, PRIOR[:-1].to(dtype), float(PRIOR[-1]), **settings
    )


def written_out(problem, coefficients, order):
    """Minus the log evidence and prior by the public function."""
    W, b = coefficients[:, :-1], coefficients[:, -1]
    y = problem.y
    fields = {"offset": problem.offset, "mask": problem.weights > 0}
    evidence = pef.log_evidence(problem.family, y, W, b, problem.precision, **fields, order=order)
    return -evidence.sum() - log_prior(coefficients.flatten(), PRIOR)


@pytest.mark.parametrize("tile", [1, 1 << 20])
@pytest.mark.parametrize(("family", "order"), in_turn(FAMILIES, [1, 2]))
def test_value_and_gradient_are_those_of_the_log_evidence(family, order, tile, monkeypatch):
    problem = random_problem(family)
    coefficients = coefficients_of(problem).view(-1, 3).requires_grad_()
    expected = written_out(problem, coefficients, order)
    (gradient,) = torch.autograd.grad(expected, coefficients)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", tile)
    z = torch.zeros(problem.num_rows, 2).double()
    found = evidence_problem(problem, order=order, constant=7.0).columns(
        coefficients.detach(), z, SOLVER
    )
    assert found.objective == pytest.approx(7.0 + expected.item(), rel=1e-12)
    torch.testing.assert_close(found.gradient, gradient)
    torch.testing.assert_close(z, root(problem), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("tile", [1, 1 << 20])
def test_the_value_of_a_fit_is_at_the_root_of_its_latents(tile, monkeypatch):
    problem = random_problem(pef.families.Poisson())
    coefficients = coefficients_of(problem).view(-1, 3)
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", tile)
    objective, near = evidence_problem(problem), root(problem) + 1e-3
    expected = written_out(problem, coefficients, 1).item()
    # The evidence changes to first order with latents that are rounded, as in single precision.
    assert abs(objective.value(coefficients, near) - expected) > 1e-6
    z = objective.latents_of_value(coefficients, near, SOLVER)
    assert objective.value(coefficients, z) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_information_is_that_of_normal_latents(family, monkeypatch):
    problem = random_problem(family)
    z = root(problem)
    variance = problem.curvatures(problem.predictor(z))
    expected = torch.zeros(6, 3, 3).double()
    for row, covariance in enumerate(torch.linalg.inv(problem.information(z))):
        design = torch.cat([z[row], torch.ones(1).double()])
        moment = torch.outer(design, design)
        moment[:2, :2] += covariance
        expected += variance[row][:, None, None] * moment
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 1)
    assert len(list(tiles(20, 9, z.device))) > 1
    torch.testing.assert_close(complete_information(problem, z), expected)
    columns = evidence_problem(problem).columns(coefficients_of(problem).view(-1, 3), z, SOLVER)
    torch.testing.assert_close(columns.information, expected + torch.diag(PRIOR))


@pytest.mark.parametrize("free", [None, [True, True, False], [False, False, True]])
def test_steps_descend_and_keep_known_coefficients(free):
    problem = random_problem(pef.families.Poisson())
    free = None if free is None else torch.tensor(free)
    objective = evidence_problem(problem, free=free)
    coefficients = coefficients_of(problem).view(-1, 3)
    columns = objective.columns(coefficients, torch.zeros(20, 2).double(), SOLVER)
    factor = torch.linalg.cholesky(columns.information)
    basis = torch.eye(18).double().view(18, 6, 3)
    moves = torch.ones(3) if free is None else free.double()
    steps = torch.stack(
        [moves * objective.scoring_step(coefficients, factor, moves * x) for x in basis]
    ).view(18, 18)
    torch.testing.assert_close(steps, steps.T)
    positive = moves.bool().repeat(6)
    assert torch.linalg.eigvalsh(steps[positive][:, positive]).min() > 0
    if free is not None:
        assert not objective.scoring_step(coefficients, factor, columns.gradient)[:, ~free].any()


def test_known_coefficients_stay_to_the_last_bit():
    problem = random_problem(pef.families.Bernoulli(), num_rows=60)
    free = torch.tensor([True, True, False])
    found, _ = maximise_evidence(problem, PRIOR, SOLVER, free)
    assert torch.equal(found.b, problem.b)
    assert not torch.allclose(found.W, problem.W)


@pytest.mark.parametrize(
    ("family", "order", "dtype"), in_turn(FAMILIES, [1, 2], [torch.float64, torch.float32])
)
def test_the_objective_never_increases_and_ends_where_it_is_stationary(family, order, dtype):
    problem = random_problem(family, num_rows=300, num_features=12)
    objective = evidence_problem(problem, dtype, order=order)
    coefficients, fit = fit_coefficients(objective, 2, SOLVER)
    objectives = [sweep.objective for sweep in fit.sweeps]
    assert objectives == sorted(objectives, reverse=True)
    assert fit.converged, fit.reason
    coefficients = coefficients.double().requires_grad_()
    value = written_out(problem, coefficients, order)
    assert fit.objective == pytest.approx(
        value.item(), rel=1e-6 if dtype is torch.float32 else 1e-12
    )
    (gradient,) = torch.autograd.grad(value, coefficients)
    assert gradient.abs().max() < 0.02 * abs(value.item()) ** 0.5


def test_a_gaussian_table_has_the_optimum_of_probabilistic_pca():
    """Tipping and Bishop (1999): the loading spans the principal components above the noise."""
    y = 1.5 * torch.randn(200, 3).double() @ torch.randn(3, 7).double() + torch.randn(200, 7) + 2.0
    table = TableInMemory(pef.families.Gaussian(1.0), 7, y, y)
    objective = EvidenceProblem(table, torch.tensor(0.25).double(), 0.0, 0.0)
    coefficients, fit = fit_coefficients(objective, 2, SOLVER, tol=1e-14)
    assert fit.converged
    values, vectors = torch.linalg.eigh(torch.cov(y.T, correction=0))
    kept, basis = values[-2:], vectors[:, -2:]
    W, b = coefficients[:, :-1], coefficients[:, -1]
    torch.testing.assert_close(b, y.mean(0), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(4 * W @ W.T, basis * (kept - 1) @ basis.T, rtol=0.0, atol=1e-4)
    covariance = 4 * W @ W.T + torch.eye(7)
    law = torch.distributions.MultivariateNormal(y.mean(0), covariance)
    assert fit.objective == pytest.approx(-law.log_prob(y).sum().item(), rel=1e-9)


def test_the_scale_of_the_loading_is_found_in_few_sweeps():
    """Steps by feature alone take a hundred."""
    W = torch.randn(30, 2).double()
    y = torch.poisson(torch.exp(torch.randn(1_000, 2).double() @ W.T / 2 + 2))
    table = TableInMemory(pef.families.Poisson(), 30, y, y)
    objective = EvidenceProblem(table, torch.ones(()).double(), 1.0, 0.0)
    coefficients, _ = fit_coefficients(objective, 2, SOLVER)
    coefficients[:, :-1] *= 5
    again, fit = fit_coefficients(objective, 2, SOLVER, start=coefficients)
    assert fit.converged
    assert fit.sweeps[-1].number <= 30
    ratio = again[:, :-1].norm() / coefficients[:, :-1].norm()
    assert math.isclose(float(ratio), 0.2, rel_tol=0.02)
