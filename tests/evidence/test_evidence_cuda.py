"""On a CUDA device the evidence is what it is on the CPU."""

import pytest
import torch
from evidence_problems import FAMILIES, random_problem

import pyro_expfam as pef

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_evidence_and_gradients_agree_with_the_cpu(family, order):
    problem = random_problem(family, latent_dim=4, num_rows=300)
    y, mask = problem.y, torch.rand(300, 12) < 0.8
    results = []
    for device in ("cpu", "cuda"):
        W, b = (x.to(device).requires_grad_() for x in (problem.W, problem.b))
        value = pef.log_evidence(family, y.to(device), W, b, mask=mask.to(device), order=order)
        gradients = torch.autograd.grad(value.sum(), (W, b))
        results.append([x.cpu() for x in (value, *gradients)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_single_precision_by_kernels(family):
    problem = random_problem(family, latent_dim=4, num_rows=300, dtype=torch.float32)
    y = problem.y
    results = []
    for device in ("cpu", "cuda"):
        W, b = (x.to(device).requires_grad_() for x in (problem.W, problem.b))
        value = pef.log_evidence(family, y.to(device), W, b)
        gradients = torch.autograd.grad(value.sum(), (W, b))
        results.append([x.cpu() for x in (value, *gradients)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)
