"""The kernels' evidence and its gradient are those of float64."""

import pytest
import torch
from kernel_tables import FIELDS, SIZES, kernel_problem
from quick_cases import in_turn
from random_tables import FAMILIES

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.cuda.evidence import (
    evidence_gradients,
    information_matrices,
    row_evidence,
    third_moment,
)


def root(problem):
    start = torch.zeros(problem.num_rows, problem.latent_dim).to(problem.W).double()
    return FisherScoring(compiled=False).solve(problem.double(), start).value


def parts(problem, z):
    """Losses and log determinants by PyTorch, as functions of all tensors."""
    loss = problem.objective(z) - 0.5 * problem.precision * z.square().sum(-1)
    return loss, torch.logdet(problem.information(z))


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize(("family", "size"), in_turn(FAMILIES, SIZES))
def test_losses_and_log_determinants(family, size, device):
    problem = kernel_problem(family, *size, "nothing", device)
    z = root(problem)
    found = row_evidence(problem, z.float(), 1e-4)
    loss, log_det = parts(problem.double(), z)
    assert found.resolved.all()
    information = information_matrices(problem, z.float())
    expected = problem.double().information(z)
    torch.testing.assert_close(information.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.loss.double(), loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.log_det.double(), log_det, rtol=1e-4, atol=1e-4)


SETTINGS = [*((3, name) for name in FIELDS), (1, "nothing"), (17, "nothing")]


@pytest.mark.parametrize(("family", "setting"), in_turn(FAMILIES, SETTINGS))
def test_gradients(family, setting, device):
    latent_dim, fields = setting
    problem = kernel_problem(family, 37, 21, latent_dim, fields, device)
    z, grad = root(problem), torch.randn(37, device=device)
    double = problem.double()
    at_root = z.requires_grad_()
    W, b = (x.requires_grad_() for x in (double.W, double.b))
    eta = torch.zeros(37, 21, dtype=torch.float64, device=device, requires_grad=True)
    shifted = eta if double.offset is None else eta + double.offset
    with_offset = LatentProblem(family, double.y, W, b, double.precision, shifted, double.weights)
    loss, log_det = parts(with_offset, at_root)
    (moment,) = torch.autograd.grad(log_det.sum(), at_root, retain_graph=True)
    covariance = torch.linalg.inv(with_offset.information(at_root)).detach()
    # What reaches the latents comes from the determinant alone.
    reached = -0.5 * grad.double()[:, None] * moment
    u = (covariance @ reached.unsqueeze(-1)).squeeze(-1)
    value = -(grad.double() * (loss + 0.5 * log_det)).sum()
    # By the implicit function theorem: along u the score changes as the coefficients do.
    value = value + (with_offset.score(at_root.detach()) * u.detach()).sum()
    expected = torch.autograd.grad(value, (W, b, eta))

    single = covariance.float()
    found_moment = third_moment(problem, z.detach().float(), single)
    assert float((found_moment.double() - moment).norm()) < 1e-4 * (1 + float(moment.norm()))
    found = evidence_gradients(problem, z.detach().float(), single, grad, -grad, u.float(), True)
    for x, y in zip(found, expected, strict=True):
        assert relative_error(x, y) < 2e-5


def test_without_observations_only_the_prior_is_left(device):
    problem = kernel_problem(pef.families.Poisson(), 20, 8, 3, "offset, mask", device)
    empty = problem.with_fields({"weights": torch.zeros_like(problem.weights)})
    found = row_evidence(empty, torch.zeros(20, 3, device=device), 1e-4)
    assert torch.equal(found.loss, torch.zeros_like(found.loss))
    torch.testing.assert_close(found.log_det, 3 * problem.precision.log().expand(20))
