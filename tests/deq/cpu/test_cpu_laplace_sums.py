"""The evidence by kernels of the processor is that of tiles of PyTorch operations."""

import pytest
import torch
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu
from pyro_expfam.evidence import fused, laplace_evidence, mode_log_density, row_function
from pyro_expfam.joint.in_memory import TableInMemory

laplace_reduced = pytest.importorskip("pyro_expfam.deq.cpu.laplace_reduced")

NUM_ROWS, NUM_FEATURES = 150, 21
FAMILIES = [
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=torch.arange(1, NUM_FEATURES + 1)),
    pef.families.NegativeBinomial(0.7),
    pef.families.NegativeBinomial(torch.linspace(0.3, 1e4, NUM_FEATURES).double()),
    pef.families.Gamma(torch.linspace(0.5, 40, NUM_FEATURES).double()),
    pef.families.Exponential(),
    pef.families.Gaussian(torch.linspace(0.1, 3, NUM_FEATURES).double()),
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


@pytest.mark.parametrize("family", [FAMILIES[1], FAMILIES[3], FAMILIES[6], FAMILIES[7]], ids=str)
def test_a_fit_of_the_evidence_evaluates_the_same(family, monkeypatch):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        problem = random_problem(family, 3)
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


def test_real_numbers_with_little_noise_keep_their_digits():
    torch.manual_seed(0)
    noise, W = torch.randn(NUM_ROWS, NUM_FEATURES).double(), torch.randn(NUM_FEATURES, 2).double()
    z = torch.randn(NUM_ROWS, 2).double()
    evidence = []
    for constant in (0.0, 1e9):
        b = torch.full((NUM_FEATURES,), constant).double()
        problem = LatentProblem(
            pef.families.Gaussian(1.0),
            z @ W.T + b + noise.round(decimals=2),
            W,
            b,
            torch.ones(()).double(),
        )
        start = torch.zeros(NUM_ROWS, 2).double()
        root = FisherScoring().solve(problem, start).value
        evidence.append(laplace_evidence(problem, root))
    torch.testing.assert_close(*evidence, rtol=0, atol=1e-4)


def test_rows_are_taken_some_at_a_time(monkeypatch):
    problem = random_problem(pef.families.NegativeBinomial(3.0), 2, ("offset", "weights"))
    z, grad = torch.randn(NUM_ROWS, 2).double(), torch.randn(NUM_ROWS).double()
    whole = value_and_gradients(laplace_evidence, problem, z, grad)
    monkeypatch.setattr(laplace_reduced, "ENTRIES_AT_ONCE", 40 * NUM_FEATURES)
    parts = value_and_gradients(laplace_evidence, problem, z, grad)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


def test_other_tables_are_left_to_pytorch(monkeypatch):
    for family in (pef.families.Ising(), pef.families.ContinuousBernoulli()):
        assert not row_function.fuses_evidence(random_problem(family, 2))
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", NUM_ROWS * NUM_FEATURES + 1)
    assert not row_function.fuses_evidence(random_problem(pef.families.Poisson(), 2))
