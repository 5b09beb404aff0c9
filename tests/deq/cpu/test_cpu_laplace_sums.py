"""The evidence by kernels of the processor is that of tiles of PyTorch operations."""

import pytest
import torch
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq import FisherScoring, cpu
from pyro_expfam.evidence import fused, laplace_evidence, mode_log_density, row_function
from pyro_expfam.joint.in_memory import TableInMemory

pytest.importorskip("numba")

NUM_ROWS, NUM_FEATURES = 150, 21
FAMILIES = [
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=torch.arange(1, NUM_FEATURES + 1)),
]


@pytest.fixture(autouse=True)
def tables_of_any_size(monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)


def random_problem(family, latent_dim, given=()):
    table = random_table(family, NUM_ROWS, NUM_FEATURES, latent_dim, precision=0.8)
    fields = {}
    if "offset" in given:
        fields["offset"] = 0.3 * torch.randn(NUM_ROWS, 1).double()
    if "weights" in given:
        present = torch.rand(NUM_ROWS, NUM_FEATURES) < 0.7
        fields["weights"] = present * (0.5 + torch.rand(NUM_ROWS, NUM_FEATURES).double())
    return table.problem(**fields)


def value_and_gradients(function, problem, z, grad):
    names = ("W", "b", "precision")
    leaves = {name: problem.fields[name].clone().requires_grad_() for name in names}
    value = function(problem.with_fields(leaves), z)
    return [value, *torch.autograd.grad((grad * value).sum(), list(leaves.values()))]


@pytest.mark.parametrize("function", [laplace_evidence, mode_log_density])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_values_and_gradients(family, function, monkeypatch):
    for latent_dim, given in ((1, ()), (2, ("offset",)), (5, ("offset", "weights"))):
        problem = random_problem(family, latent_dim, given)
        start = torch.zeros(NUM_ROWS, latent_dim).double()
        z, grad = FisherScoring().solve(problem, start).value, torch.randn(NUM_ROWS).double()
        assert row_function.fuses_evidence(problem)
        by_kernels = value_and_gradients(function, problem, z, grad)
        with monkeypatch.context() as without:
            without.setattr(row_function, "fuses_evidence", lambda _: False)
            by_tiles = value_and_gradients(function, problem, z, grad)
        for found, expected in zip(by_kernels, by_tiles, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_fit_of_the_evidence_evaluates_the_same(monkeypatch):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        problem = random_problem(pef.families.Poisson(), 3)
        table = TableInMemory(problem.family, NUM_FEATURES, torch.zeros((), dtype=dtype), problem.y)
        objective = EvidenceProblem(table, torch.tensor(0.8, dtype=dtype), 1.0, 0.01)
        coefficients = torch.cat([problem.W, problem.b[:, None]], 1).to(dtype)
        found = []
        for by_kernels in (True, False):
            if not by_kernels:
                monkeypatch.setattr(fused, "fuses_evidence", lambda _: False)
                monkeypatch.setattr(row_function, "fuses_evidence", lambda _: False)
            z = torch.zeros(NUM_ROWS, 3, dtype=dtype)
            columns = objective.columns(coefficients, z, FisherScoring())
            found.append((torch.tensor(columns.objective), columns.gradient, columns.information))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 10)
        monkeypatch.undo()
        monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)


def test_other_tables_are_left_to_pytorch(monkeypatch):
    for family in (pef.families.Ising(), pef.families.ContinuousBernoulli()):
        assert not row_function.fuses_evidence(random_problem(family, 2))
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", NUM_ROWS * NUM_FEATURES + 1)
    assert not row_function.fuses_evidence(random_problem(pef.families.Poisson(), 2))
