"""Kernels of the processor find the second order of the evidence that tiles find."""

from dataclasses import replace

import pytest
import torch
from evidence_cases import MIXED, NUM_FEATURES, NUM_ROWS, OF_LEVELS, random_coupled
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.deq import FisherScoring, cpu
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.evidence import (
    evidence_at_root,
    fused,
    laplace_evidence,
    row_function,
    second_order_term,
)
from pyro_expfam.joint.in_memory import TableInMemory

pytest.importorskip("numba")

FAMILIES = [
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=torch.arange(1, NUM_FEATURES + 1)),
    pef.families.NegativeBinomial(torch.linspace(0.3, 1e4, NUM_FEATURES).double()),
    pef.families.Gamma(torch.linspace(0.5, 40, NUM_FEATURES).double()),
    pef.families.ContinuousBernoulli(),
    pef.families.Ordinal(3, cut_points=torch.linspace(-2, 1, 2 * NUM_FEATURES).view(-1, 2)),
    pef.families.ZeroInflatedPoisson(0.3),
    pef.families.PoissonLogNormal(0.5),
    pef.families.Poisson(link=pef.links.Softplus()),
    pef.families.Bernoulli(link=pef.links.Probit()),
    pef.families.Binomial(torch.arange(1, NUM_FEATURES + 1), link=pef.links.ComplementaryLogLog()),
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


def root(problem):
    start = torch.zeros(NUM_ROWS, problem.latent_dim).double()
    return FisherScoring(tol=1e-12).solve(problem, start).value


def value_and_gradients(problem, z, grad):
    names = [name for name in ("W", "b", "precision", "offset") if name in problem.fields]
    leaves = {name: problem.fields[name].clone().requires_grad_() for name in names}
    value = second_order_term(problem.with_fields(leaves), z)
    return [value, *torch.autograd.grad((grad * value).sum(), list(leaves.values()))]


@pytest.mark.parametrize("family", [*FAMILIES, *OF_LEVELS[1::2], *MIXED.values()], ids=str)
def test_values_and_gradients(family, monkeypatch):
    cases = ((1, ()), (2, ("offset",)), (5, ("offset", "weights")), (16, ("weights",)))
    for latent_dim, given in cases:
        make = random_problem if family in FAMILIES else random_coupled
        problem = make(family, latent_dim, given)
        z, grad = root(problem), torch.randn(NUM_ROWS).double()
        assert cpu.has_second_order(problem)
        by_kernels = value_and_gradients(problem, z, grad)
        with monkeypatch.context() as without:
            without.setattr(row_function, "fuses_evidence", lambda _: False)
            by_tiles = value_and_gradients(problem, z, grad)
        for found, expected in zip(by_kernels, by_tiles, strict=True):
            # The information of some rows with 16 latents has a condition number of millions.
            tolerance = 1e-10 if latent_dim < 16 else 1e-8
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["W", "b", "precision"])
def test_gradients_are_differences_of_values(name):
    problem = random_problem(pef.families.Bernoulli(), 3, ("offset", "weights"))
    x = problem.fields[name].clone().requires_grad_()
    there = problem.with_fields({name: x})
    (gradient,) = torch.autograd.grad(evidence_at_root(there, root(problem), 2).sum(), x)
    direction, step = torch.randn_like(x), 1e-5
    ahead, behind = (
        problem.with_fields({name: x.detach() + sign * step * direction}) for sign in (1, -1)
    )
    change = (evidence_at_root(p, root(p), 2).sum() for p in (ahead, behind))
    slope = (next(change) - next(change)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [FAMILIES[1], *FAMILIES[3:]], ids=str)
def test_a_fit_of_the_evidence_evaluates_the_same(family, monkeypatch):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        problem = random_problem(family, 3)
        table = TableInMemory(problem.family, NUM_FEATURES, torch.zeros((), dtype=dtype), problem.y)
        precision = torch.tensor(0.8, dtype=dtype)
        objective = EvidenceProblem(table, precision, 1.0, 0.01, order=2)
        coefficients = torch.cat([problem.W, problem.b[:, None]], 1).to(dtype)
        found = []
        for is_compiled in (True, False):
            with monkeypatch.context() as context:
                if not is_compiled:
                    context.setattr(fused, "fuses_evidence", lambda _: False)
                    context.setattr(row_function, "fuses_evidence", lambda _: False)
                z = torch.zeros(NUM_ROWS, 3, dtype=dtype)
                columns = objective.columns(coefficients, z, FisherScoring())
            found.append((torch.tensor(columns.objective), columns.gradient, columns.information))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 10)


def test_categories_of_two_levels_are_bits_of_the_difference():
    problem = random_coupled(pef.families.Categorical(2), 3, ("offset", "weights"))
    bits = replace(
        problem,
        family=pef.families.Bernoulli(),
        y=problem.y[:, 1::2],
        map=Dense(problem.W[1::2] - problem.W[::2]),
        b=problem.b[1::2] - problem.b[::2],
        offset=problem.offset[:, 1::2] - problem.offset[:, ::2],
        weights=problem.weights[:, ::2],
    )
    z = root(bits)
    torch.testing.assert_close(second_order_term(problem, z), second_order_term(bits, z))


def test_a_composition_of_one_part_adds_nothing():
    bits, parts = pef.families.Bernoulli(), pef.families.Multinomial()
    family = pef.families.Columns([(slice(1, NUM_FEATURES), bits), ([0], parts)])
    problem = random_coupled(family, 2)
    alone = problem.predictors(bits, slice(1, NUM_FEATURES))
    z = root(alone)
    torch.testing.assert_close(second_order_term(problem, z), second_order_term(alone, z))
    base = torch.zeros(NUM_ROWS).double()
    torch.testing.assert_close(laplace_evidence(problem, z) - laplace_evidence(alone, z), base)


def test_what_the_kernel_has_not_comes_from_tiles():
    assert not cpu.has_second_order(random_problem(pef.families.Poisson(), 17))
    problem = random_problem(pef.families.Poisson(), 2, ("weights",))
    weights = problem.weights.clone().requires_grad_()
    value = second_order_term(replace(problem, weights=weights), root(problem))
    (gradient,) = torch.autograd.grad(value.sum(), weights)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any())


def test_a_row_without_entries_adds_nothing():
    problem = random_problem(pef.families.Bernoulli(), 2)
    weights = torch.ones(NUM_ROWS, NUM_FEATURES).double()
    weights[3] = 0
    problem = replace(problem, weights=weights)
    term = second_order_term(problem, root(problem))
    assert float(term[3]) == 0
    assert bool((term[4:] != 0).all())
