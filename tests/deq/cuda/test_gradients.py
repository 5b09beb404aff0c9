"""The kernels' gradients are those of the implicit function theorem in float64."""

import pytest
import torch
from kernel_tables import FIELDS, SIZES, kernel_problem
from quick_cases import in_turn
from random_tables import FAMILIES

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, backend, implicit, root_gradients
from pyro_expfam.deq.cuda import gradients as fused


def root_and_gradient(problem):
    start = torch.zeros(problem.num_rows, problem.latent_dim).to(problem.W)
    exact = FisherScoring(compiled=False).solve(problem.double(), start.double()).value
    return exact.float(), torch.randn_like(start)


def relative_error(found, expected):
    size = expected.norm().clamp(min=1e-30)
    return float((found.double() - expected).norm() / size)


@pytest.mark.parametrize(("family", "fields"), in_turn(FAMILIES, list(FIELDS)))
def test_all_gradients(family, fields, device):
    problem = kernel_problem(family, 45, 21, 3, fields, device)
    z, grad = root_and_gradient(problem)
    u, resolved = fused.solve_information(problem, z, grad, 1e-4)
    assert resolved.all()
    by_entry = fused.EntryGradients(*(torch.full_like(problem.y, torch.nan) for _ in range(3)))
    of_W, of_b = fused.sum_over_rows(problem, z, u, by_entry)
    of_rows = fused.sum_over_features(problem, z, u)
    # The statistic of the families here is the observation, or the observation over one scale.
    expected = root_gradients.gradients(problem.double(), z.double(), grad.double(), {"y"})
    of_y = family.sufficient_statistic(by_entry.statistic)
    assert relative_error(of_W, expected["W"]) < 1e-5
    assert relative_error(of_b, expected["b"]) < 1e-5
    assert relative_error(of_rows, expected["offset"].sum(-1, keepdim=True)) < 1e-5
    assert relative_error(of_y, expected["y"]) < 1e-5
    assert relative_error(by_entry.offset, expected["offset"]) < 1e-5
    assert relative_error(by_entry.weights, expected["weights"]) < 1e-5


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ragged_tables(size, device):
    problem = kernel_problem(pef.families.Bernoulli(), *size, "nothing", device)
    z, grad = root_and_gradient(problem)
    u, _ = fused.solve_information(problem, z, grad, 1e-4)
    found = fused.sum_over_rows(problem, z, u, fused.EntryGradients(None, None, None))
    expected = root_gradients.gradients(problem.double(), z.double(), grad.double(), set())
    for x, y in zip(found, (expected["W"], expected["b"]), strict=True):
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
        monkeypatch.setattr(backend.cuda, "has_kernels", lambda problem, on=fused_layer: on)
        tensors = {name: x.clone().requires_grad_() for name, x in problem.fields.items()}
        table = problem.with_fields(tensors)
        start = problem.W.detach().new_zeros(20, 2)
        value = implicit.solve(table, FisherScoring(), start).value
        wanted = list(tensors.values())
        results.append([value, *torch.autograd.grad(value.square().sum(), wanted)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
