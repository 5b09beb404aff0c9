"""Fits of large tables find their start on samples of the rows."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import (
    JointProblem,
    SparseTable,
    StreamedTable,
    TableInMemory,
    best_start,
    fit_coefficients,
    rare_columns,
    sampled_rows,
    scoring,
)
from pyro_expfam.joint.sampled_rows import samples_of
from pyro_expfam.joint.spectral import spectral_start

FAMILY = pef.families.Poisson()
LIKE = torch.zeros((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    monkeypatch.setattr(sampled_rows, "ENTRIES", (600, 6_000))
    monkeypatch.setattr(sampled_rows, "FEWEST_ROWS", 50)


def numbered(num_rows=4_000):
    """Counts whose first column is the number of the row, with an offset and covariates."""
    y = torch.poisson(torch.ones(num_rows, 6)).double()
    y[:, 0] = torch.arange(num_rows)
    return y, 0.1 * torch.randn(num_rows, 1).double(), torch.randn(num_rows, 2).double()


def rows_in(sample):
    return [(int(rows.y[k, 0]), rows, k) for _, rows in sample.tiles() for k in range(len(rows.y))]


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_a_sample_has_rows_of_the_table_with_all_that_belongs_to_them(kind):
    y, offset, x = numbered()
    mask = torch.rand(y.shape) < 0.9
    mask[:, 0] = True
    if kind == "memory":
        table = TableInMemory(FAMILY, 6, LIKE, y, offset, mask, None, x, num_covariates=2)
    else:
        parts = {"y": y, "offset": offset, "mask": mask, "covariates": x}
        batches = [
            {name: part[k : k + 700] for name, part in parts.items()} for k in range(0, 4_000, 700)
        ]
        table = StreamedTable(FAMILY, 6, LIKE, batches, num_covariates=2)
    small, large = samples_of(table)
    assert small.num_rows == pytest.approx(100, rel=0.4)
    assert large.num_rows == pytest.approx(500, rel=0.2)
    numbers = {number for number, *_ in rows_in(large)}
    assert {number for number, *_ in rows_in(small)} <= numbers
    assert len(numbers) == large.num_rows
    for number, rows, k in rows_in(large):
        assert torch.equal(rows.offset[k], offset[number])
        assert torch.equal(rows.covariates[k], x[number])
        assert torch.equal(rows.weights[k], mask[number].double())
    known = torch.cat([torch.ones(4_000, 1).double(), x], 1)[sorted(numbers)]
    torch.testing.assert_close(large.gram, known.T @ known)


def test_a_sparse_table_has_the_sample_of_the_dense_one():
    y = torch.poisson(torch.full((4_000, 6), 0.3)).double()
    dense = samples_of(TableInMemory(FAMILY, 6, LIKE, y))[-1]
    sparse = samples_of(SparseTable(FAMILY, 6, LIKE, y.to_sparse_csr()))[-1]
    for (_, one), (_, other) in zip(dense.tiles(), sparse.tiles(), strict=True):
        assert torch.equal(one.y, other.y)
    assert dense.log_base_measure == pytest.approx(sparse.log_base_measure)


def test_small_tables_have_no_samples():
    assert samples_of(TableInMemory(FAMILY, 6, LIKE, numbered(300)[0])) == []


def test_the_objective_of_a_sample_is_a_share_of_the_objective_of_the_table():
    y, offset, x = numbered()
    y[:, 0] = 1
    table = TableInMemory(FAMILY, 6, LIKE, y, offset, None, None, x, num_covariates=2)
    problem = JointProblem(
        table, torch.ones(()).double(), 2.0, 0.5, 7.0, covariate_precision=torch.tensor(3.0)
    )
    sample = samples_of(table)[-1]
    part, share = problem.of_sample(sample), sample.num_rows / table.num_rows
    coefficients = 0.1 * torch.randn(6, 5).double()
    whole = problem.value(coefficients, torch.zeros(4_000, 2).double())
    found = part.value(coefficients, torch.zeros(sample.num_rows, 2).double()) / share
    assert found == pytest.approx(whole, rel=0.05)
    precision = problem.coefficient_precision(coefficients)
    torch.testing.assert_close(part.coefficient_precision(coefficients), share * precision)


@pytest.mark.several_starts
@pytest.mark.parametrize("evidence", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_fit_from_samples_ends_where_a_fit_of_the_whole_table_does(evidence, monkeypatch):
    W, b = torch.randn(6, 2).double(), torch.randn(6).double()
    y = torch.poisson((torch.randn(4_000, 2).double() @ W.T + b).clamp(max=6).exp())
    table = TableInMemory(FAMILY, 6, LIKE, y)
    law = pef.coefficients.EvidenceProblem if evidence else JointProblem
    problem = law(table, torch.ones(()).double(), 1.0, 0.1)
    coefficients, fit = fit_coefficients(problem, 2, FisherScoring(), tol=1e-10)
    monkeypatch.setattr(best_start, "samples_of", lambda table: [])
    _, whole = fit_coefficients(problem, 2, FisherScoring(), tol=1e-10)
    assert fit.objective == pytest.approx(whole.objective, rel=1e-9)
    # The sample has led most of the way.
    assert fit.sweeps[0].objective - fit.objective < 0.02 * abs(fit.objective)
    joint = problem.joint(2)
    at_root = joint.columns(coefficients, torch.zeros(4_000, 2).double(), FisherScoring())
    assert fit.starts[0].objective == pytest.approx(at_root.objective, rel=0.1)


@pytest.mark.several_starts
def test_a_column_whose_events_are_not_in_the_sample_is_fitted_from_the_whole_table():
    y = torch.poisson(torch.exp(0.5 * torch.randn(4_000, 1) + torch.zeros(4_000, 6))).double()
    marked = y.clone()
    marked[:, 0] = torch.arange(len(y))
    sampled = {k for k, *_ in rows_in(samples_of(TableInMemory(FAMILY, 6, LIKE, marked))[-1])}
    y[:, 5] = 0
    y[next(k for k in range(4_000) if k not in sampled), 5] = 3
    # Under a flat prior the intercept of the sample has no optimum.
    problem = JointProblem(
        TableInMemory(FAMILY, 6, LIKE, y), torch.ones(()).double(), 1.0, torch.zeros(6)
    )
    coefficients, fit = fit_coefficients(problem, 1, FisherScoring(), tol=1e-10)
    assert fit.converged
    assert float(problem.columns(coefficients, fit.latents, FisherScoring()).gradient.norm()) < 0.1
    assert -9 < float(coefficients[5, 1]) < -6


@pytest.mark.several_starts
def test_the_largest_sample_is_followed_beyond_where_starts_are_compared(monkeypatch):
    y = torch.poisson((torch.randn(4_000, 2) @ torch.randn(2, 6)).clamp(max=3).exp()).double()
    problem = JointProblem(TableInMemory(FAMILY, 6, LIKE, y), torch.ones(()).double(), 1.0, 0.1)
    seen = []
    descend = scoring._descend

    def note(problem, latent_dim, start, z, solver, limits):
        seen.append((problem.table.num_rows, limits.tol))
        return descend(problem, latent_dim, start, z, solver, limits)

    monkeypatch.setattr(scoring, "_descend", note)
    _, fit = fit_coefficients(problem, 2, FisherScoring(), tol=1e-9)
    sizes = {rows for rows, _ in seen}
    small, large, whole = sorted(sizes)
    tolerances = dict(seen)
    assert tolerances == {small: 1e-5, large: 1e-7, whole: 1e-9}
    assert fit.converged


def rows_outside(num_rows=4_000):
    """The numbers of rows that are in no sample of a table of so many."""
    marked = torch.ones(num_rows, 6).double()
    marked[:, 0] = torch.arange(num_rows)
    sampled = {k for k, *_ in rows_in(samples_of(TableInMemory(FAMILY, 6, LIKE, marked))[-1])}
    return [k for k in range(num_rows) if k not in sampled]


@pytest.mark.several_starts
@pytest.mark.parametrize("evidence", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fit_does_not_end_without_latents_where_the_sample_knows_of_none(evidence, monkeypatch):
    W = torch.randn(6, 2).double()
    y = torch.poisson((torch.randn(4_000, 2).double() @ W.T + 4).clamp(max=7).exp())
    # Nothing of what is observed is in the sample. Without a loading there is no gradient.
    weights = torch.zeros(4_000, 1).double()
    weights[rows_outside()[:40]] = 1
    table = TableInMemory(FAMILY, 6, LIKE, y, None, None, weights)
    law = pef.coefficients.EvidenceProblem if evidence else JointProblem
    problem = law(table, torch.ones(()).double(), 1.0, 0.1)
    coefficients, fit = fit_coefficients(problem, 2, FisherScoring(), tol=1e-10)
    monkeypatch.setattr(best_start, "samples_of", lambda table: [])
    _, whole = fit_coefficients(problem, 2, FisherScoring(), tol=1e-10)
    assert fit.objective == pytest.approx(whole.objective, rel=1e-6)
    assert (coefficients[:, :2].norm(dim=0) > 0.1).all()


@pytest.mark.several_starts
def test_a_latent_of_rare_columns_starts_from_the_residuals_of_the_table():
    y = torch.poisson(torch.full((4_000, 6), 2.0)).double()
    y[:, 3:] = 0
    common = torch.exp(torch.randn(400, 1).double() + 1).expand(400, 3)
    y[rows_outside()[:400], 3:] = torch.poisson(common)
    table = TableInMemory(FAMILY, 6, LIKE, y)
    problem = JointProblem(table, torch.ones(()).double(), 1.0, 0.1)
    sample = problem.of_sample(samples_of(table)[-1])
    # What a sample has learnt of columns without an event there: a latent of their own.
    coefficients = torch.zeros(6, 3).double()
    coefficients[:3, 0], coefficients[3:, 1], coefficients[3:, 2] = 0.3, 1.0, -20.0
    found = rare_columns.with_rare_columns(problem, sample, coefficients, 2, FisherScoring())
    torch.testing.assert_close(found[:, 0], coefficients[:, 0])
    assert found[3:, 1].abs().min() > 0.3
    assert found[:3, 1].abs().max() < 0.1
    assert (found[3:, 2] > -5).all()


@pytest.mark.parametrize("size", [0.0, 1e-10])
def test_latents_that_have_vanished_in_the_sample_start_from_the_residuals_of_the_table(size):
    y = torch.poisson(torch.exp(torch.randn(4_000, 2) @ torch.randn(2, 6) + 1)).double()
    table = TableInMemory(FAMILY, 6, LIKE, y)
    problem = JointProblem(table, torch.ones(()).double(), 1.0, 0.1)
    sample = problem.of_sample(samples_of(table)[-1])
    coefficients = size * torch.ones(6, 3).double()
    coefficients[:, 2] = y.mean(0).log()
    found = rare_columns.with_rare_columns(problem, sample, coefficients, 2, FisherScoring())
    W, expected = found[:, :2], spectral_start(problem, 2)[:, :2]
    torch.testing.assert_close(W @ W.mT, expected @ expected.mT)
    assert torch.equal(found[:, 2], coefficients[:, 2])


@pytest.mark.slow
@pytest.mark.several_starts
def test_a_row_of_totals_outside_of_the_sample_does_not_lead_the_evidence_astray(monkeypatch):
    y = torch.poisson(torch.exp(torch.randn(4_000, 2) @ torch.randn(2, 6) + 1)).double()
    y[rows_outside()[0]] = 1e6
    table = TableInMemory(FAMILY, 6, LIKE, y)
    problem = pef.coefficients.EvidenceProblem(table, torch.ones(()).double(), 1.0, 0.1)
    _, fit = fit_coefficients(problem, 2, FisherScoring(), max_sweeps=300)
    assert fit.converged
    monkeypatch.setattr(best_start, "samples_of", lambda table: [])
    _, whole = fit_coefficients(problem, 2, FisherScoring())
    assert fit.objective < whole.objective + 1e-3 * abs(whole.objective)
