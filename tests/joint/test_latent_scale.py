"""A fit of the evidence starts with latents of the scale of their prior."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, TableInMemory
from pyro_expfam.joint.latent_scale import at_scale_of_prior

BERNOULLI = pef.families.Bernoulli()
SOLVER = FisherScoring()


def bits(num_rows, num_features, intercept, seed):
    torch.manual_seed(seed)
    W = torch.randn(num_features, 2, dtype=torch.float64) / 2**0.5
    b = intercept + 0.3 * torch.randn(num_features, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(torch.randn(num_rows, 2).double() @ W.T + b))
    return y, torch.cat([W, b[:, None]], 1)


def problem_of(kind, y, latent_precision=1.0):
    table = TableInMemory(BERNOULLI, y.shape[1], torch.zeros((), dtype=torch.float64), y)
    precision = torch.tensor(latent_precision, dtype=torch.float64)
    return kind(table, precision, loading_precision=1e-3, intercept_precision=1e-3)


@pytest.mark.parametrize("latent_precision", [1.0, 4.0])
def test_the_moment_is_that_of_the_posterior(latent_precision):
    y, coefficients = bits(50, 12, 0.0, 0)
    problem = problem_of(EvidenceProblem, y, latent_precision)
    z = torch.zeros(50, 2, dtype=torch.float64)
    found = problem.latent_moment(coefficients, z, SOLVER)

    # Row by row, with a Hessian by automatic differentiation.
    W, b = coefficients[:, :2], coefficients[:, 2]
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for of_row, mode in zip(y, z, strict=True):

        def loss(at, of_row=of_row):
            eta = W @ at + b
            fit = torch.nn.functional.softplus(eta) - of_row * eta
            return fit.sum() + 0.5 * latent_precision * at.square().sum()

        assert float(torch.func.grad(loss)(mode).norm()) < 1e-6
        expected += torch.linalg.inv(torch.func.hessian(loss)(mode)) + mode[:, None] * mode
    assert torch.allclose(found, latent_precision * expected / 50, rtol=1e-6)


def test_some_rows_tell_the_moment_of_a_large_table():
    y, coefficients = bits(20_000, 12, 0.0, 4)
    z = torch.zeros(20_000, 2, dtype=torch.float64)
    some = problem_of(EvidenceProblem, y).latent_moment(coefficients, z, SOLVER)
    every = torch.arange(0, 20_000, 4)
    z = torch.zeros(5_000, 2, dtype=torch.float64)
    expected = problem_of(EvidenceProblem, y[every]).latent_moment(coefficients, z, SOLVER)
    assert torch.allclose(some, expected, rtol=1e-6)


def test_a_loading_that_is_too_large_comes_to_the_scale_of_the_prior():
    y, coefficients = bits(2_000, 30, 0.0, 1)
    mix = torch.tensor([[4.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    far = torch.cat([coefficients[:, :2] @ mix, coefficients[:, 2:]], 1)
    problem = problem_of(EvidenceProblem, y)
    found, z = at_scale_of_prior(problem, far, None, 2, SOLVER)
    products = [x[:, :2] @ x[:, :2].T for x in (coefficients, far, found)]
    before, after = ((x - products[0]).norm() / products[0].norm() for x in products[1:])
    assert before > 10
    assert after < 0.3
    assert torch.equal(found[:, 2], far[:, 2])
    moment = problem.latent_moment(found, z, SOLVER)
    assert float((torch.linalg.eigvalsh(moment) - 1).abs().max()) < 0.2


def test_the_joint_objective_has_no_scale_to_find():
    y, coefficients = bits(50, 12, 0.0, 2)
    found, z = at_scale_of_prior(problem_of(JointProblem, y), coefficients, None, 2, SOLVER)
    assert found is coefficients
    assert z is None


@pytest.mark.filterwarnings("error")
def test_common_bits_of_many_columns_do_not_run_away():
    # From the joint optimum itself the second order of this table runs away.
    y, true = bits(6_400, 30, 0.0, 3)
    pyro.clear_param_store()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(BERNOULLI, 30, 2))
    assert guide.fit(y.float(), loss=pef.LaplaceEvidence(order=2)).converged
    assert float(guide.loading.norm() / true[:, :2].norm()) == pytest.approx(1.0, abs=0.05)
