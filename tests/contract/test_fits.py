"""Fits of tables of every family come to rest where the gradient of their objective is zero."""

import copy
import pickle

import pytest
import torch
from all_families import one_of_each_way
from contract_problems import SMOOTH, every, information_outside, log_joint, widened
from torch.utils.data import DataLoader, TensorDataset

import pyro_expfam as pef
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve
from pyro_expfam.joint import JointProblem, StreamedTable, TableInMemory, fit_coefficients

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 60, 6, 2
# A fit knows a law by the derivatives of its loss, and these, roots and sums of batches are tested
# for every kind of family.
every_family = every(SMOOTH, one_of_each_way)
LIKE = torch.zeros((), dtype=torch.float64)
SETTINGS = {
    "latent_precision": torch.tensor(1.0, dtype=torch.float64),
    "loading_precision": 1.0,
    "intercept_precision": 0.25,
}


def random_table(family):
    """A family, observations and offsets of two strong latents."""
    family = widened(family)
    draw = {"dtype": torch.float64}
    W, b = 0.8 * torch.randn(NUM_FEATURES, LATENT_DIM, **draw), 0.3 * torch.randn(NUM_FEATURES)
    eta = torch.randn(NUM_ROWS, LATENT_DIM, **draw) @ W.T + b
    offset = 0.3 * torch.randn(NUM_ROWS, 1, **draw)
    return family, family.sample((eta + offset).clamp(-3, 3)), offset


def problem_at(family, y, offset, coefficients):
    W, b = coefficients[:, :-1], coefficients[:, -1]
    return LatentProblem(family, y, W, b, SETTINGS["latent_precision"], offset)


def minus_log_prior(coefficients):
    return 0.5 * coefficients[:, :-1].square().sum() + 0.125 * coefficients[:, -1].square().sum()


@every_family
def test_a_joint_fit_rests_where_the_gradient_by_autograd_is_zero(family):
    family, y, offset = random_table(family)
    table = TableInMemory(family, NUM_FEATURES, LIKE, y, offset)
    found, fit = fit_coefficients(
        JointProblem(table, **SETTINGS), LATENT_DIM, FisherScoring(), tol=1e-12
    )
    assert fit.converged
    coefficients, z = found.requires_grad_(), fit.latents.requires_grad_()
    problem = problem_at(family, y, offset, coefficients)
    value = minus_log_prior(coefficients) - log_joint(problem, z).sum()
    assert fit.objective == pytest.approx(value.item(), rel=1e-9)
    for gradient in torch.autograd.grad(value, (coefficients, z)):
        assert gradient.abs().max() < 1e-3


def laplace_loss(family, y, offset, coefficients):
    """Minus the log of Laplace evidence and prior, from log densities alone."""
    problem = problem_at(family, y, offset, coefficients)
    z = solve(problem, FisherScoring()).value
    half_log_det = 0.5 * torch.logdet(information_outside(problem, z))
    return minus_log_prior(coefficients) + (half_log_det - log_joint(problem, z)).sum()


@every_family
def test_an_evidence_fit_rests_where_the_slope_of_the_evidence_is_zero(family):
    family, y, offset = random_table(family)
    table = TableInMemory(family, NUM_FEATURES, LIKE, y, offset)
    found, fit = fit_coefficients(
        EvidenceProblem(table, **SETTINGS), LATENT_DIM, FisherScoring(), tol=1e-10
    )
    assert fit.converged
    for _ in range(2):
        direction = torch.randn_like(found)
        step = 1e-3 * direction / direction.norm()
        low, high = (laplace_loss(family, y, offset, found + s * step) for s in (-1, 1))
        assert abs(float(high - low)) / 2e-3 < 1e-2


@every_family
def test_a_streamed_fit_is_the_fit_in_memory(family):
    family, y, offset = random_table(family)
    loader = DataLoader(TensorDataset(y, offset), batch_size=13)
    found = [
        fit_coefficients(
            JointProblem(table, **SETTINGS), LATENT_DIM, FisherScoring(), max_sweeps=15
        )
        for table in (
            TableInMemory(family, NUM_FEATURES, LIKE, y, offset),
            StreamedTable(family, NUM_FEATURES, LIKE, loader),
        )
    ]
    (memory, fit), (stream, fit_of_stream) = found
    assert fit_of_stream.objective == pytest.approx(fit.objective, rel=5e-7)
    products = [x[:, :-1] @ x[:, :-1].T for x in (memory, stream)]
    torch.testing.assert_close(products[1], products[0], rtol=1e-3, atol=1e-3)


@every(SMOOTH, one_of_each_way, make=[pef.DEQMAPGuide, pef.LaplaceGuide])
def test_copies_of_a_trained_guide_find_the_same_latents(family, make):
    family, y, offset = random_table(family)
    guide = make(pef.ExpFamPCA(family, NUM_FEATURES, LATENT_DIM).double()).double()
    guide.fit(y, offset, max_time=0.5, callback=lambda sweep: sweep.number >= 3)
    expected = guide.latents(y, offset)
    for copied in (pickle.loads(pickle.dumps(guide)), copy.deepcopy(guide)):
        torch.testing.assert_close(copied.latents(y, offset), expected)
