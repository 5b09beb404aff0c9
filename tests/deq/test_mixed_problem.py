"""A mixed table is the same model as a table for each of its laws that share the latents."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import cpu
from pyro_expfam.deq.cpu import has_kernels, numba_is_installed
from pyro_expfam.deq.layer import make_problem, make_solver, solve
from pyro_expfam.deq.side_by_side import side_by_side
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_evidence import evidence_at_root

F = pef.families
SCALAR = [F.Bernoulli(), F.Poisson(), F.Gaussian(0.7), F.NegativeBinomial(2.0)]
COUPLED = [F.Bernoulli(), F.Categorical(4), F.Gaussian(0.7), F.Categorical(3), F.Ordinal(3, [0, 1])]
every_mix = pytest.mark.parametrize("laws", [SCALAR, COUPLED], ids=["scalar", "coupled"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# A kernel is compiled for every sequence of laws in every dtype, for seconds a law. The quick tests
# have one sequence in single precision, and one in double precision: of scalar laws, and of one
# whose predictors are coupled. Ordered answers are scalar laws that have parameters of their own.
SINGLE = [F.Poisson(), F.Gaussian(0.7)]
DOUBLE = [F.NegativeBinomial(2.0), F.Categorical(3)]
EVERY_KIND = [*SINGLE, *DOUBLE, F.Ordinal(4, [-1.0, 0.0, 1.5])]
in_double_precision = [
    pytest.param(DOUBLE, torch.float64, id="double"),
    pytest.param(EVERY_KIND, torch.float64, id="every kind", marks=pytest.mark.slow),
]
NUM_ROWS, EACH, LATENTS = 60, 3, 2


def shuffled(laws, dtype=torch.float64, seed=0, num_rows=NUM_ROWS):
    """A mixed table with its columns in a random order, and a problem for each law alone."""
    torch.manual_seed(seed)
    order = torch.randperm(len(laws) * EACH).tolist()
    family = F.Columns({f"c{k}": laws[place % len(laws)] for k, place in enumerate(order)})
    width = family.num_predictors(len(order))
    W, b = 0.6 * torch.randn(width, LATENTS, dtype=dtype), 0.3 * torch.randn(width, dtype=dtype)
    z = torch.randn(num_rows, LATENTS, dtype=dtype)
    y = family.decode(family.sample(z @ W.mT + b))
    mask = torch.rand(num_rows, len(order)) > 0.2
    weights = torch.rand(num_rows, len(order), dtype=dtype) + 0.5
    offset = 0.2 * torch.randn(num_rows, 1, dtype=dtype)
    mixed = make_problem(family, y, W, b, 1.3, offset, mask, weights)
    parts = [
        make_problem(
            kind.family,
            y[:, kind.columns],
            W[kind.predictors],
            b[kind.predictors],
            1.3,
            offset,
            mask[:, kind.columns],
            weights[:, kind.columns],
        )
        for kind in family.parts
    ]
    return mixed, parts


@every_mix
def test_the_mixed_table_is_its_tables_that_share_the_latents(laws):
    mixed, parts = shuffled(laws)
    joined = side_by_side(parts[0], parts[1:])
    z, other = (solve(problem, make_solver()).value for problem in (mixed, joined))
    torch.testing.assert_close(z, other)
    prior = mixed.prior_information()
    information = sum(part.information(z) - prior for part in parts) + prior
    torch.testing.assert_close(mixed.information(z), information)
    torch.testing.assert_close(Expansion(mixed, z).covariance, torch.linalg.inv(information))
    for order in (1, 2):
        torch.testing.assert_close(
            evidence_at_root(mixed, z, order), evidence_at_root(joined, other, order)
        )


@every_mix
@every_dtype
def test_all_rows_come_to_the_root(laws, dtype):
    mixed, _ = shuffled(laws, dtype, seed=1)
    solution = solve(mixed, make_solver())
    assert bool(solution.converged.all())
    score = mixed.double().score(solution.value.double())
    assert float(score.abs().max()) < (2e-4 if dtype == torch.float32 else 1e-9)


@every_mix
def test_gradients_reach_every_column(laws):
    mixed, _ = shuffled(laws)
    mixed = mixed.rows(slice(0, 5))
    names = ["W", "b", "offset"]
    fields = [mixed.fields[name].detach().requires_grad_() for name in names]

    def at(*tensors):
        problem = mixed.with_fields(dict(zip(names, tensors, strict=True)))
        z = solve(problem, make_solver()).value
        return z, evidence_at_root(problem, z, 1), evidence_at_root(problem, z, 2)

    assert torch.autograd.gradcheck(at, fields, fast_mode=True)


@pytest.fixture
def kernels_of_small_tables(monkeypatch):
    """Kernels are used for small tables too."""
    monkeypatch.setattr(cpu, "WORTH_COMPILING", 1)


def test_small_tables_do_not_wait_for_a_compiler():
    mixed, _ = shuffled(DOUBLE, torch.float32, num_rows=1000)
    assert not has_kernels(mixed)


@pytest.mark.parametrize(
    ("laws", "dtype"),
    [pytest.param(SINGLE, torch.float32, id="single"), *in_double_precision],
)
def test_kernels_find_the_same_roots_as_operations(laws, dtype, kernels_of_small_tables):
    mixed, _ = shuffled(laws, dtype, num_rows=200)
    assert has_kernels(mixed) == numba_is_installed()
    compiled, plain = (
        solve(mixed, pef.deq.FisherScoring(compiled=compiled)) for compiled in (True, False)
    )
    assert bool(compiled.converged.all())
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(compiled.value, plain.value, **tolerance)


@pytest.mark.parametrize(
    ("laws", "dtype"),
    [
        pytest.param(SINGLE, torch.float32, id="single"),
        pytest.param(DOUBLE, torch.float64, id="double", marks=pytest.mark.slow),
        in_double_precision[1],
    ],
)
def test_kernels_find_the_same_gradients_as_operations(laws, dtype, kernels_of_small_tables):
    mixed, _ = shuffled(laws, dtype, num_rows=200)
    found = []
    for compiled in (True, False):
        W, b = (mixed.fields[name].detach().requires_grad_() for name in ("W", "b"))
        problem = mixed.with_fields({"W": W, "b": b})
        z = solve(problem, pef.deq.FisherScoring(compiled=compiled)).value
        found.append(torch.autograd.grad((z * torch.arange(1.0, 3.0)).sum(), (W, b)))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(*found, **tolerance)


def test_kernels_start_rows_that_are_alike_from_a_grid(kernels_of_small_tables):
    # In the order of the shuffled columns, so that the kernel is compiled already.
    first, second = (kind.family for kind in shuffled(SINGLE, torch.float32)[0].kinds)
    torch.manual_seed(0)
    family = F.Columns({"a": first, "b": second, "c": second, "d": first})
    W, b = torch.randn(4, 1), torch.zeros(4)
    y = family.sample(torch.randn(5000, 1) @ W.mT)
    compiled, plain = (
        pef.solve_latents(family, y, W, b, solver=pef.deq.FisherScoring(compiled=compiled))
        for compiled in (True, False)
    )
    torch.testing.assert_close(compiled.value, plain.value, rtol=1e-4, atol=1e-4)


def test_the_loading_must_fit_the_columns():
    family = F.Columns({"a": F.Categorical(3), "b": F.Poisson()})
    with pytest.raises(ValueError, match="W must have 4 rows, one for each linear predictor of"):
        pef.solve_latents(family, torch.ones(2, 2), torch.ones(2, 1), torch.zeros(2))


def test_an_offset_of_a_mixed_table_has_an_entry_for_each_linear_predictor():
    family = F.Columns({"a": F.Categorical(3), "b": F.Poisson()})
    table = torch.ones(2, 2), torch.ones(4, 1), torch.zeros(4)
    pef.solve_latents(family, *table, offset=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"offset must have the shape \(..., 2, 4\)"):
        pef.solve_latents(family, *table, offset=torch.ones(2, 2))


def test_an_entry_outside_of_a_support_is_named_with_the_law_of_its_column():
    family = F.Columns({"a": F.Poisson(), "b": F.Bernoulli()})
    y = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(
        ValueError, match=r"support of Bernoulli\(\), 0 or 1.*; got 2 at .*\(0, 1\)"
    ):
        pef.solve_latents(family, y, torch.ones(2, 1), torch.zeros(2))
