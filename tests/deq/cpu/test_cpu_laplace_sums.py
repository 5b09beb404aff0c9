"""The evidence by kernels of the processor is that of tiles of PyTorch operations."""

import pytest
import torch
from evidence_cases import MIXED, NUM_FEATURES, NUM_ROWS, OF_LEVELS, random_coupled
from quick_cases import in_turn
from random_tables import random_table

import pyro_expfam as pef
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.coefficients.information import complete_information
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu
from pyro_expfam.evidence import (
    fused,
    laplace_evidence,
    mode_log_density,
    row_function,
    second_order_term,
)
from pyro_expfam.joint.in_memory import TableInMemory

laplace_by_parts = pytest.importorskip("pyro_expfam.deq.cpu.laplace_by_parts")

FAMILIES = [
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=torch.arange(1, NUM_FEATURES + 1)),
    pef.families.NegativeBinomial(0.7),
    pef.families.NegativeBinomial(torch.linspace(0.3, 1e4, NUM_FEATURES).double()),
    pef.families.Gamma(torch.linspace(0.5, 40, NUM_FEATURES).double()),
    pef.families.Exponential(),
    pef.families.Gaussian(torch.linspace(0.1, 3, NUM_FEATURES).double()),
    pef.families.ContinuousBernoulli(),
    pef.families.Ordinal(4, cut_points=[-1.0, 0.0, 1.5]),
    pef.families.Ordinal(3, cut_points=torch.linspace(-2, 1, 2 * NUM_FEATURES).view(-1, 2)),
    pef.families.Bernoulli(link=pef.links.Probit()),
    pef.families.Binomial(torch.arange(1, NUM_FEATURES + 1), link=pef.links.Probit()),
    pef.families.Bernoulli(link=pef.links.ComplementaryLogLog()),
    pef.families.Binomial(total_count=7, link=pef.links.ComplementaryLogLog()),
    pef.families.Ising(),
    pef.families.Weibull(torch.linspace(0.5, 2, NUM_FEATURES).double()),
    pef.families.LogNormal(0.4),
    pef.families.Tweedie(1.3, torch.linspace(0.5, 2, NUM_FEATURES).double()),
    pef.families.ZeroTruncatedPoisson(),
    pef.families.ZeroInflatedPoisson(torch.linspace(0.01, 0.9, NUM_FEATURES).double()),
    pef.families.ZeroInflatedNegativeBinomial(3.0, 0.3),
    pef.families.PoissonLogNormal(torch.linspace(0.1, 2, NUM_FEATURES).double()),
    pef.families.Poisson(link=pef.links.Softplus()),
    pef.families.NegativeBinomial(
        torch.linspace(0.3, 1e4, NUM_FEATURES).double(), link=pef.links.Softplus()
    ),
    pef.families.Gamma(2.5, link=pef.links.Softplus()),
    pef.families.Tweedie(1.3, 2.0, link=pef.links.Softplus()),
    pef.families.Gaussian(torch.linspace(0.1, 3, NUM_FEATURES).double(), link=pef.links.Softplus()),
    # Under a smaller scale rows are not convex.
    pef.families.Gaussian(50.0, link=pef.links.Log()),
    pef.families.Pareto(1.5),
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
    names = [name for name in ("W", "b", "precision", "offset") if name in problem.fields]
    leaves = {name: problem.fields[name].clone().requires_grad_() for name in names}
    value = function(problem.with_fields(leaves), z)
    return [value, *torch.autograd.grad((grad * value).sum(), list(leaves.values()))]


@pytest.mark.parametrize(
    ("family", "function"),
    in_turn([*FAMILIES, *OF_LEVELS, *MIXED.values()], [laplace_evidence, mode_log_density]),
)
def test_values_and_gradients(family, function, monkeypatch):
    for latent_dim, given in ((1, ()), (2, ("offset",)), (5, ("offset", "weights"))):
        make = random_problem if family in FAMILIES else random_coupled
        problem = make(family, latent_dim, given)
        start = torch.zeros(NUM_ROWS, latent_dim).double()
        z, grad = FisherScoring().solve(problem, start).value, torch.randn(NUM_ROWS).double()
        assert row_function.fuses_evidence(problem)
        by_kernels = value_and_gradients(function, problem, z, grad)
        with monkeypatch.context() as without:
            without.setattr(row_function, "fuses_evidence", lambda _: False)
            by_tiles = value_and_gradients(function, problem, z, grad)
        for found, expected in zip(by_kernels, by_tiles, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", [*FAMILIES[1:8:2], FAMILIES[6], *FAMILIES[8:-1]], ids=str)
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


@pytest.mark.parametrize("function", [laplace_evidence, mode_log_density])
@pytest.mark.parametrize("precision", [4.0, torch.linspace(0.5, 200, NUM_FEATURES).double()])
def test_proportions(precision, function, monkeypatch):
    problem = random_problem(pef.families.Beta(precision), 3, ("offset", "weights"))
    z = FisherScoring(tol=1e-12).solve(problem, torch.zeros(NUM_ROWS, 3).double()).value
    grad, found = torch.randn(NUM_ROWS).double(), []
    assert row_function.fuses_evidence(problem)
    for by_kernels in (True, False):
        monkeypatch.setattr(row_function, "fuses_evidence", lambda _, on=by_kernels: on)
        found.append(value_and_gradients(function, problem, z, grad))
    for one, other in zip(*found, strict=True):
        # The second derivatives of PyTorch's log gamma function have ten digits.
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * scale)


DRAWS = torch.Generator().manual_seed(0)
"""What is drawn while the file is imported, before the seed of a test."""


def by_feature(low, high):
    return torch.linspace(low, high, NUM_FEATURES).double()


def ordered_answers(is_shared):
    size = () if is_shared else (NUM_FEATURES,)
    gaps = {name: 0.2 + torch.rand(size, generator=DRAWS).double() for name in ("gap_1", "gap_2")}
    return pef.families.Ordinal(4).with_parameters(gaps)


def with_learnt(family):
    """A family with some values of the parameters that it leaves open."""
    starts = family.to_learn(NUM_FEATURES)
    return family.replaced(
        {k: x.double() * (0.8 + torch.rand(x.shape, generator=DRAWS)) for k, x in starts.items()}
    )


LEARNT = {
    "cut points": ordered_answers(False),
    "shared cut points": ordered_answers(True),
    "size": pef.families.NegativeBinomial().replaced({"size": by_feature(0.3, 1e4)}),
    "shared size": pef.families.NegativeBinomial().replaced({"size": torch.tensor(3.0).double()}),
    "shape": pef.families.Gamma().replaced({"shape": by_feature(0.5, 40)}),
    "size under the softplus": pef.families.NegativeBinomial(link=pef.links.Softplus()).replaced(
        {"size": by_feature(0.3, 1e4)}
    ),
    "shape under the softplus": pef.families.Gamma(link=pef.links.Softplus()).replaced(
        {"shape": by_feature(0.5, 40)}
    ),
    "power": pef.families.Weibull().replaced({"shape": by_feature(0.5, 2)}),
    "scale": pef.families.Gaussian().replaced({"scale": by_feature(0.1, 3)}),
    "zero probability": pef.families.ZeroInflatedPoisson().replaced(
        {"zero_probability": by_feature(0.01, 0.9)}
    ),
    "zero probability and size": pef.families.ZeroInflatedNegativeBinomial().replaced(
        {"zero_probability": by_feature(0.01, 0.9), "size": torch.tensor(3.0).double()}
    ),
    "size beside a known probability": pef.families.ZeroInflatedNegativeBinomial(
        zero_probability=0.2
    ).replaced({"size": by_feature(0.3, 1e4)}),
    "scale of effects": pef.families.PoissonLogNormal().replaced({"scale": by_feature(0.1, 2)}),
    "scale of logs": pef.families.LogNormal().replaced({"scale": by_feature(0.1, 1)}),
    "mixed": with_learnt(
        pef.families.Columns(
            [
                (slice(0, 6), pef.families.Bernoulli()),
                (slice(6, 9), pef.families.Categorical(3)),
                ([9, 11, 13], pef.families.Ordinal(4)),
                ([10, 12, 14], pef.families.NegativeBinomial()),
                (slice(15, 18), pef.families.ZeroInflatedNegativeBinomial("shared")),
                (slice(18, 21), pef.families.Gaussian()),
            ]
        )
    ),
}


def gradients_both_ways(problem, function, monkeypatch):
    """Gradients in the parameters of the family, by kernels and by tiles."""
    z = FisherScoring(tol=1e-12).solve(problem, torch.zeros(NUM_ROWS, problem.latent_dim).double())
    fields = [name for name in problem.fields if name.startswith("family.")]
    grad, found = torch.linspace(-1, 1, NUM_ROWS).double(), []
    for by_kernels in (True, False):
        leaves = {name: problem.fields[name].clone().requires_grad_() for name in fields}
        value = function(problem.with_fields(leaves), z.value)
        with monkeypatch.context() as context:
            if by_kernels:
                context.setattr(row_function, "_by_tiles", lambda *_: pytest.fail("by tiles"))
            else:
                context.setattr(row_function, "fuses_evidence", lambda _: False)
            found.append(torch.autograd.grad(value, list(leaves.values()), grad))
    return found


@pytest.mark.parametrize("name", LEARNT)
def test_gradients_of_parameters(name, monkeypatch):
    family = LEARNT[name]
    # The first order is exact for real numbers.
    functions = (laplace_evidence, mode_log_density, second_order_term)
    for function in functions if family.self_concordance != 0 else functions[:2]:
        make = random_coupled if isinstance(family, pef.families.Columns) else random_problem
        problem = make(family, 3, ("offset", "weights"))
        for one, other in zip(*gradients_both_ways(problem, function, monkeypatch), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_of_precisions(monkeypatch):
    family = pef.families.Beta().replaced({"precision": by_feature(0.5, 200)})
    problem = random_problem(family, 2, ("offset", "weights"))
    for function in (laplace_evidence, mode_log_density, second_order_term):
        (one,), (other,) = gradients_both_ways(problem, function, monkeypatch)
        # The second derivatives of PyTorch's log gamma function have ten digits.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8 * float(other.abs().max()))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "family",
    [
        pef.families.Poisson(),
        pef.families.ZeroInflatedPoisson(0.3),
        pef.families.PoissonLogNormal(0.5),
        MIXED["with categories"],
    ],
    ids=str,
)
def test_a_fit_with_covariates_evaluates_the_same(family, order, monkeypatch):
    make = random_coupled if isinstance(family, pef.families.Columns) else random_problem
    problem = make(family, 2, ("weights",))
    x, num_predictors = torch.randn(NUM_ROWS, 3).double(), len(problem.b)
    observed = (family.decode(problem.y), None, None, problem.of_columns(problem.weights), x)
    table = TableInMemory(family, NUM_FEATURES, x[0, 0], *observed, num_covariates=3)
    objective = EvidenceProblem(table, problem.precision, 1.0, 0.01, order=order)
    known = 0.2 * torch.randn(num_predictors, 3).double()
    coefficients, found = torch.cat([problem.W, problem.b[:, None], known], 1), []
    for by_kernels in (True, False):
        with monkeypatch.context() as context:
            if by_kernels:
                context.setattr(EvidenceProblem, "_evidence", lambda *_: pytest.fail("by tiles"))
            else:
                context.setattr(fused, "fuses_evidence", lambda _: False)
                context.setattr(row_function, "fuses_evidence", lambda _: False)
            z = torch.zeros(NUM_ROWS, 2).double()
            columns = objective.columns(coefficients, z, FisherScoring())
        found.append((torch.tensor(columns.objective), columns.gradient, columns.information))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_fit_of_cut_points_evaluates_the_same(is_shared, order, monkeypatch):
    problem = random_problem(ordered_answers(is_shared), 2)
    table = TableInMemory(problem.family, NUM_FEATURES, torch.zeros(()).double(), problem.y)
    objective = EvidenceProblem(table, problem.precision, 1.0, 0.01, order=order)
    objective = objective.learning(("gap_1", "gap_2"))
    coefficients, found = torch.cat([problem.W, problem.b[:, None]], 1), []
    for by_kernels in (True, False):
        monkeypatch.setattr(fused, "fuses_evidence", lambda _, on=by_kernels: on)
        monkeypatch.setattr(row_function, "fuses_evidence", lambda _, on=by_kernels: on)
        columns = objective.columns(
            coefficients, torch.zeros(NUM_ROWS, 2).double(), FisherScoring()
        )
        parts = (columns.gradient, columns.information, columns.to_parameters)
        found.append((torch.tensor(columns.objective), *parts))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_rows_without_entries_have_the_evidence_zero(family):
    problem = random_problem(family, 2, ("weights",))
    problem.weights[3], problem.weights[NUM_ROWS - 1] = 0, 0
    # Predictors at which losses of missing entries may be infinite.
    problem.b[0], problem.weights[:, 0] = 800.0, 0
    z = FisherScoring().solve(problem, torch.zeros(NUM_ROWS, 2).double()).value
    W = problem.W.clone().requires_grad_()
    evidence = laplace_evidence(problem.with_fields({"W": W}), z)
    torch.testing.assert_close(evidence[[3, -1]], torch.zeros(2).double(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(evidence.sum(), W)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[0] == 0).all())
    assert bool((gradient[1:] != 0).all())


@pytest.mark.parametrize("family", OF_LEVELS[1::2], ids=str)
def test_a_fit_of_categories_has_the_same_sums(family):
    problem = random_coupled(family, 3, ("offset", "weights"))
    z = FisherScoring().solve(problem, torch.zeros(NUM_ROWS, 3).double()).value
    found = fused.evidence_sums(problem, z)
    torch.testing.assert_close(found.information, complete_information(problem, z))


def test_categories_of_two_levels_are_bits_of_the_difference():
    problem = random_coupled(pef.families.Categorical(2), 2, ("offset", "weights"))
    bits = LatentProblem(
        pef.families.Bernoulli(),
        problem.y[:, 1::2],
        problem.W[1::2] - problem.W[::2],
        problem.b[1::2] - problem.b[::2],
        problem.precision,
        problem.offset[:, 1::2] - problem.offset[:, ::2],
        problem.weights[:, ::2],
    )
    z = FisherScoring().solve(bits, torch.zeros(NUM_ROWS, 2).double()).value
    torch.testing.assert_close(laplace_evidence(problem, z), laplace_evidence(bits, z))


def test_rows_of_levels_without_entries_have_the_evidence_zero():
    problem = random_coupled(pef.families.Categorical(3), 2, ("weights",))
    problem.weights[3], problem.b[0] = 0, 800.0
    z = FisherScoring().solve(problem, torch.zeros(NUM_ROWS, 2).double()).value
    W = problem.W.clone().requires_grad_()
    evidence = laplace_evidence(problem.with_fields({"W": W}), z)
    assert abs(float(evidence[3])) < 1e-12
    (gradient,) = torch.autograd.grad(evidence.sum(), W)
    assert bool(gradient.isfinite().all())


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
    monkeypatch.setattr(laplace_by_parts, "ENTRIES_AT_ONCE", 40 * NUM_FEATURES)
    parts = value_and_gradients(laplace_evidence, problem, z, grad)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


def test_other_tables_are_left_to_pytorch(monkeypatch):
    cut_points = torch.linspace(-2, 1, 2 * NUM_ROWS * NUM_FEATURES).view(NUM_ROWS, NUM_FEATURES, 2)
    of_own = pef.links.Mean(torch.nn.functional.softplus)
    others = (pef.families.Poisson(link=of_own), pef.families.Ordinal(3, cut_points))
    for family in others:
        assert not row_function.fuses_evidence(random_problem(family, 2))
    mixed = pef.families.Columns(
        [
            (slice(0, 11), pef.families.Poisson()),
            (slice(11, 21), others[0]),
        ]
    )
    assert not row_function.fuses_evidence(random_coupled(mixed, 2))
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", NUM_ROWS * NUM_FEATURES + 1)
    assert not row_function.fuses_evidence(random_problem(pef.families.Poisson(), 2))
