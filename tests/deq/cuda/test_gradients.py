"""The kernels' gradients are those of the implicit function theorem in float64."""

import pytest
import torch
from kernel_tables import FIELDS, SIZES, kernel_problem
from random_tables import FAMILIES

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, implicit
from pyro_expfam.deq.cuda import gradients as fused


def root_and_gradient(problem):
    start = torch.zeros(problem.num_rows, problem.latent_dim).to(problem.W)
    exact = FisherScoring(compiled=False).solve(problem.double(), start.double()).value
    return exact.float(), torch.randn_like(start)


def relative_error(found, expected):
    size = expected.norm().clamp(min=1e-30)
    return float((found.double() - expected).norm() / size)


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_all_gradients(family, fields, device):
    problem = kernel_problem(family, 45, 21, 3, fields, device)
    z, grad = root_and_gradient(problem)
    u, resolved = fused.solve_information(problem, z, grad, 1e-4)
    assert resolved.all()
    by_entry = fused.EntryGradients(
        *(torch.full_like(problem.statistic, torch.nan) for _ in range(3))
    )
    of_W, of_b = fused.sum_over_rows(problem, z, u, by_entry)
    of_rows = fused.sum_over_features(problem, z, u)
    statistic, W, b, _, offset, weights = implicit.gradients(
        problem.double(), z.double(), grad.double()
    )
    assert relative_error(of_W, W) < 1e-5
    assert relative_error(of_b, b) < 1e-5
    assert relative_error(of_rows, offset.sum(-1, keepdim=True)) < 1e-5
    assert relative_error(by_entry.statistic, statistic) < 1e-5
    assert relative_error(by_entry.offset, offset) < 1e-5
    assert relative_error(by_entry.weights, weights) < 1e-5


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ragged_tables(size, device):
    problem = kernel_problem(pef.families.Bernoulli(), *size, "nothing", device)
    z, grad = root_and_gradient(problem)
    u, _ = fused.solve_information(problem, z, grad, 1e-4)
    found = fused.sum_over_rows(problem, z, u, fused.EntryGradients(None, None, None))
    _, *expected, _, _, _ = implicit.gradients(problem.double(), z.double(), grad.double())
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert relative_error(x, y) < 1e-5


def test_rows_of_several_chunks_are_summed(device, monkeypatch):
    problem = kernel_problem(pef.families.Poisson(), 100, 5, 2, "offset, mask", device)
    z, grad = root_and_gradient(problem)
    u, _ = fused.solve_information(problem, z, grad, 1e-4)
    nothing = fused.EntryGradients(None, None, None)
    whole = fused.sum_over_rows(problem, z, u, nothing)
    monkeypatch.setattr(fused, "CHUNK_ROWS", 32)
    for x, y in zip(fused.sum_over_rows(problem, z, u, nothing), whole, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", FIELDS)
def test_the_layer_by_kernels(fields, monkeypatch, device):
    """All that lies between the kernels and autograd, also where there is no device."""
    problem = kernel_problem(pef.families.Bernoulli(), 20, 7, 2, fields, device)
    results = []
    for fused_layer in (True, False):
        monkeypatch.setattr(implicit.cuda, "has_kernels", lambda problem, on=fused_layer: on)
        tensors = [None if x is None else x.clone().requires_grad_() for x in problem.tensors]
        table = type(problem)(problem.family, *tensors)
        start = problem.W.detach().new_zeros(20, 2)
        value = implicit.solve(table, FisherScoring(), start).value
        wanted = [x for x in tensors if x is not None]
        results.append([value, *torch.autograd.grad(value.square().sum(), wanted)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
