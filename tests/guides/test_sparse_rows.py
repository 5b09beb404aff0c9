"""Sparse tables give what dense tables give, and are never dense as a whole."""

import numpy as np
import pytest
import torch
from scipy import sparse

import pyro_expfam as pef
from pyro_expfam.deq import row_block
from pyro_expfam.deq.sparse_rows import SparseRows

F = pef.families


def counts(num_rows=90, num_columns=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    eta = z @ torch.randn(2, num_columns, generator=generator, dtype=torch.float64) / 2 - 1
    return torch.poisson(eta.exp(), generator=generator)


def fitted(family, y, *entries):
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, y.shape[1], 2).double())
    fit = guide.fit(y, *entries, progress=False)
    assert fit.converged
    return guide, fit


FORMS = {
    "csr": lambda y: sparse.csr_matrix(y.numpy()),
    "csc": lambda y: sparse.csc_array(y.numpy().astype(np.int64)),
    "torch csr": lambda y: y.to_sparse_csr(),
    "torch coo": lambda y: y.to_sparse_coo(),
}


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 300)


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_the_dense_table(form):
    y = counts()
    rows = SparseRows(FORMS[form](y))
    for part in (slice(0, 90), slice(7, 31), slice(88, 90)):
        torch.testing.assert_close(rows.dense(part).double(), y[part])


@pytest.mark.parametrize(
    ("family", "form"),
    [
        (F.Poisson(), "csr"),
        (F.Poisson(), "torch csr"),
        (F.NegativeBinomial(2.0), "csc"),
        (F.Gaussian(), "csr"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_tiles")
def test_a_sparse_fit_is_the_dense_fit(family, form):
    y = counts()
    x = FORMS[form](y)
    dense, dense_fit = fitted(family, y)
    guide, fit = fitted(family, x)
    assert fit.objective == pytest.approx(dense_fit.objective, rel=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(dense.latents(x), dense.latents(y), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(dense.log_evidence(x), dense.log_evidence(y))
        ours, theirs = dense.posterior(x), dense.posterior(y)
        torch.testing.assert_close(ours.covariance_matrix, theirs.covariance_matrix)
        product = guide.latents(x) @ guide.loading.mT
        torch.testing.assert_close(product, dense.latents(y) @ dense.loading.mT, rtol=0, atol=2e-2)


@pytest.mark.usefixtures("small_tiles")
def test_offsets_masks_and_weights_go_with_their_rows():
    y, random = counts(), torch.Generator().manual_seed(1)
    offset = torch.randn(90, 1, generator=random, dtype=torch.float64)
    mask = torch.rand(90, 12, generator=random) < 0.8
    weights = 0.5 + torch.rand(12, generator=random, dtype=torch.float64)
    entries = (offset, mask, weights)
    dense, dense_fit = fitted(F.Poisson(), y, *entries)
    x = sparse.csr_matrix(y.numpy())
    _, fit = fitted(F.Poisson(), x, *entries)
    assert fit.objective == pytest.approx(dense_fit.objective, rel=1e-6)
    torch.testing.assert_close(dense.latents(x, *entries), dense.latents(y, *entries))


def test_point_masses_of_a_map_guide_are_joined():
    y = counts()
    torch.manual_seed(0)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 12, 2).double())
    guide.fit(y.to_sparse_csr(), progress=False)
    with torch.no_grad():
        torch.testing.assert_close(
            guide.block().posterior(y.to_sparse_csr()).mean, guide.latents(y)
        )


def test_entries_of_one_place_add_up():
    x = sparse.coo_matrix(([1.0, 2.0], ([1, 1], [2, 2])), shape=(3, 4))
    assert float(SparseRows(x).dense(slice(1, 2))[0, 2]) == 3.0


def test_no_more_than_a_tile_is_made_dense(monkeypatch):
    monkeypatch.setitem(row_block.TILE_ENTRIES, "cpu", 300)
    sizes, dense = [], SparseRows.dense

    def spy(self, index):
        found = dense(self, index)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(SparseRows, "dense", spy)
    y = counts()
    guide, _ = fitted(F.Bernoulli(), (y > 0).double().to_sparse_csr())
    guide.log_evidence((y > 0).double().to_sparse_csr())
    assert 0 < max(sizes) < 40


@pytest.mark.usefixtures("small_tiles")
def test_bad_entries_are_refused_with_their_place():
    y = counts()
    y[70, 3] = -1.0
    with pytest.raises(ValueError, match=r"counts 0, 1, 2, …; got -1 at position \(70, 3\)"):
        fitted(F.Poisson(), y.to_sparse_csr())
    y[70, 3] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at position \(70, 3\): pass mask="):
        fitted(F.Poisson(), y.to_sparse_csr())
    with pytest.raises(ValueError, match=r"one column for each feature, got \(90, 12\)"):
        pef.joint.SparseTable(F.Poisson(), 5, torch.zeros(()), counts().to_sparse_csr())
    nothing, y = torch.zeros(90, 12, dtype=torch.bool), counts().to_sparse_csr()
    with pytest.raises(ValueError, match="mask must leave at least one entry"):
        pef.joint.SparseTable(F.Poisson(), 12, torch.zeros(()), y, mask=nothing)
