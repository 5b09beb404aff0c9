"""Sums over the stored entries of a sparse table are the sums over its dense entries."""

import pytest
import torch
from scipy import sparse

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq import row_block
from pyro_expfam.deq.sparse_rows import SparseRows
from pyro_expfam.deq.stored_entries import StoredEntries, leaves_out_zeros
from pyro_expfam.joint import JointProblem, SparseTable, TableInMemory

F = pef.families
NUM_ROWS, NUM_COLUMNS, LATENTS = 60, 9, 2


def tables(family, entries, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    y = torch.poisson(torch.full((NUM_ROWS, NUM_COLUMNS), 0.3), generator=generator).to(dtype)
    if family.support.check(torch.tensor(2.0)).logical_not():
        y = (y > 0).to(dtype)
    like = torch.zeros((), dtype=dtype)
    arguments = (family, NUM_COLUMNS, like)
    return (
        TableInMemory(*arguments, y, *entries),
        SparseTable(*arguments, sparse.csr_array(y.numpy()), *entries),
    )


def some_entries():
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(NUM_ROWS, 1, generator=generator, dtype=torch.float64)
    mask = torch.rand(NUM_ROWS, NUM_COLUMNS, generator=generator) < 0.8
    weights = 0.5 + torch.rand(NUM_COLUMNS, generator=generator, dtype=torch.float64)
    return offset, mask, weights


ENTRIES = {"alone": (None, None, None), "with offset, mask and weights": some_entries()}
FAMILIES = [F.Poisson(), F.Bernoulli(), F.Binomial(8), F.NegativeBinomial(2.0), F.Gaussian(0.7)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 150)


@pytest.mark.parametrize("kind", [JointProblem, EvidenceProblem])
@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_objective_gradient_and_information_are_the_dense_ones(family, entries, kind):
    generator = torch.Generator().manual_seed(2)
    theta = torch.randn(NUM_COLUMNS, LATENTS + 1, generator=generator, dtype=torch.float64) / 2
    found = []
    for table in tables(family, ENTRIES[entries]):
        problem = kind(table, torch.tensor(1.0).double(), 1.0, 0.1)
        z = theta.new_zeros(NUM_ROWS, LATENTS)
        columns = problem.columns(theta, z, pef.deq.FisherScoring(compiled=False))
        found.append((*columns[:3], z, table.log_base_measure))
    for dense, stored in zip(*found, strict=True):
        torch.testing.assert_close(torch.as_tensor(stored), torch.as_tensor(dense))


def test_a_matrix_is_multiplied_by_its_stored_entries():
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(7, 5, generator=generator) * (torch.rand(7, 5, generator=generator) < 0.4)
    row, column = y.nonzero(as_tuple=True)
    stored = StoredEntries(row, column, y[row, column], None, 7)
    W, z = torch.randn(5, 3, generator=generator), torch.randn(7, 2, generator=generator)
    torch.testing.assert_close(stored.times(W), y @ W)
    torch.testing.assert_close(stored.transposed_times(z, 5), y.mT @ z)
    torch.testing.assert_close(stored.by_row(stored.y), y.sum(1))
    torch.testing.assert_close(stored.rows(slice(2, 5)).times(W), y[2:5] @ W)


def test_zeros_are_left_out_where_their_log_density_is_minus_the_log_partition():
    left_out = (F.Poisson(), F.Bernoulli(), F.Binomial(3))
    assert all(leaves_out_zeros(family) for family in left_out)
    read = (F.Gaussian(), F.NegativeBinomial(2.0), F.Ising(), F.Binomial(torch.ones(3)))
    assert not any(leaves_out_zeros(family) for family in read)


def test_counts_are_checked_where_they_are_stored(monkeypatch):
    monkeypatch.setattr(SparseRows, "dense", lambda *_: pytest.fail("a tile was made dense"))
    assert tables(F.Poisson(), ENTRIES["with offset, mask and weights"])[1].num_rows == NUM_ROWS


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, -1.0])
def test_what_a_mask_hides_is_never_read(bad):
    y = torch.eye(4).double()
    broken = y.clone()
    broken[2, 2] = bad
    like, mask = torch.zeros(()).double(), torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"at position \(2, 2\)"):
        SparseTable(F.Poisson(), 4, like, sparse.csr_array(broken.numpy()))
    mask[2, 2] = False
    for form in (sparse.csr_array(broken.numpy()), broken.to_sparse_csr()):
        table = SparseTable(F.Poisson(), 4, like, form, mask=mask)
        ((_, rows),) = table.tiles()
        assert torch.equal(rows.y[mask], y[mask])
        assert torch.equal(rows.stored.y, torch.ones(3).double())


def test_an_offset_or_weight_that_is_not_finite_has_its_place():
    y, like = sparse.csr_array(torch.eye(4).double().numpy()), torch.zeros(()).double()
    offset = torch.zeros(4, 1).double()
    offset[3, 0] = torch.nan
    with pytest.raises(ValueError, match=r"offset must be finite; got nan at position \(3, 0\)"):
        SparseTable(F.Poisson(), 4, like, y, offset)
    with pytest.raises(ValueError, match=r"weights must be non-negative .* \(0, 1\)"):
        SparseTable(F.Poisson(), 4, like, y, weights=torch.tensor([1.0, -1.0, 1.0, 1.0]).double())
