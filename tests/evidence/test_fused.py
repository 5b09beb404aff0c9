"""Evidence by kernels, with autograd around them, is that of tiles."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from evidence_problems import FAMILIES, random_problem, root
from quick_cases import in_turn

from pyro_expfam.deq import LatentProblem
from pyro_expfam.evidence import (
    laplace_evidence,
    mode_log_density,
    row_function,
    second_order_mean,
    second_order_term,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the device")

FIELDS = {
    "nothing": (),
    "offset by row": ((30, 1),),
    "offset and mask": ((30, 12), (30, 12)),
    "offset by feature": ((1, 12),),
}


def problem_with(family, fields) -> LatentProblem:
    problem = random_problem(family, 3, num_rows=30, dtype=torch.float32)
    shapes = FIELDS[fields]
    if shapes:
        problem = replace(problem, offset=0.3 * torch.randn(shapes[0]))
    if len(shapes) > 1:
        problem = replace(problem, weights=(torch.rand(shapes[1]) < 0.7).float())
    return problem


def value_and_gradients(function, problem, z, grad):
    names = [name for name in ("W", "b", "precision", "offset") if name in problem.fields]
    leaves = {name: problem.fields[name].clone().requires_grad_() for name in names}
    value = function(problem.with_fields(leaves), z)
    return [value, *torch.autograd.grad((grad * value).sum(), list(leaves.values()))]


@pytest.mark.parametrize(
    ("family", "fields", "function"),
    in_turn(FAMILIES, list(FIELDS), [laplace_evidence, mode_log_density]),
)
def test_values_and_gradients(family, fields, function, monkeypatch):
    problem = problem_with(family, fields)
    z, grad = root(problem), torch.randn(30)
    both = []
    for kernels in (True, False):
        monkeypatch.setattr(row_function, "fuses_evidence", lambda _, on=kernels: on)
        both.append(value_and_gradients(function, problem, z, grad))
    for by_kernels, by_tiles in zip(*both, strict=True):
        assert by_kernels.dtype == by_tiles.dtype == torch.float32
        torch.testing.assert_close(by_kernels, by_tiles, rtol=2e-4, atol=2e-4)


def test_gradients_that_kernels_have_not_come_from_tiles(monkeypatch):
    problem = problem_with(FAMILIES[-1], "offset and mask")
    problem = replace(problem, weights=problem.weights.requires_grad_())
    gradients = []
    for kernels in (True, False):
        monkeypatch.setattr(row_function, "fuses_evidence", lambda _, on=kernels: on)
        value = laplace_evidence(problem, root(problem).detach())
        gradients.append(torch.autograd.grad(value.sum(), problem.weights)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [second_order_term, second_order_mean])
def test_functions_that_kernels_have_not_come_from_tiles(function, monkeypatch):
    problem = problem_with(FAMILIES[-1], "offset and mask")
    z = root(problem)
    results = []
    for kernels in (True, False):
        monkeypatch.setattr(row_function, "fuses_evidence", lambda _, on=kernels: on)
        grad = torch.ones_like(function(problem, z))
        results.append(value_and_gradients(function, problem, z, grad))
    torch.testing.assert_close(*results)


def test_kernels_are_used_where_they_are_there(monkeypatch):
    problem = problem_with(FAMILIES[-1], "nothing")
    monkeypatch.setattr(row_function, "fuses_evidence", lambda _: True)
    monkeypatch.setattr(row_function, "_tiles", lambda *_: pytest.fail("rows were tiled"))
    value_and_gradients(laplace_evidence, problem, root(problem), torch.randn(30))
