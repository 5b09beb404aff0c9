"""AnnData in and out, by an object with its parts and by the package itself."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import pyro_expfam as pef
from pyro_expfam.estimators import backed_tables
from pyro_expfam.estimators.backed_tables import BackedTable


def cells(form=sparse.csr_matrix):
    random = np.random.default_rng(0)
    loading = random.normal(size=(2, 9)) / 2
    size = random.gamma(5.0, 0.2, size=(70, 1))
    X = random.poisson(size * np.exp(random.normal(size=(70, 2)) @ loading + 1)).astype(float)
    return SimpleNamespace(
        X=form(np.log1p(X)),
        layers={"counts": form(X)},
        obs=pd.DataFrame({"size": size[:, 0], "bad": 0.0}),
        obsm={},
        varm={},
        uns={"log1p": {}},
        var_names=[f"g{k}" for k in range(9)],
    )


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_results_are_those_of_the_estimator(form):
    adata = cells(form)
    estimator = pef.ExponentialFamilyPCA(2, "poisson", random_state=0)
    found = pef.fit_anndata(adata, estimator, layer="counts", size_factors="size")
    assert found is estimator
    size = adata.obs[["size"]].to_numpy()
    offset = np.log(size / size.mean())
    scores, covariance = found.transform(adata.layers["counts"], offset, return_cov=True)
    np.testing.assert_array_equal(adata.obsm["X_expfam"], scores)
    np.testing.assert_array_equal(adata.obsm["X_expfam_cov"], covariance)
    np.testing.assert_array_equal(adata.varm["expfam_loading"], found.components_.T)
    assert adata.uns["expfam"]["family"] == "Poisson()"
    assert adata.uns["expfam"]["converged"]


def test_total_counts_are_size_factors():
    adata = cells()
    found = pef.fit_anndata(adata, layer="counts", size_factors="total", key="p")
    total = np.asarray(adata.layers["counts"].sum(1))
    expected = found.transform(adata.layers["counts"], np.log(total / total.mean()))
    np.testing.assert_array_equal(adata.obsm["X_p"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"adata\.X must hold raw counts, got .* normalised, after log1p\. Pass the layer"),
        ({"layer": "raw"}, r"layer must be one of \['counts'\], got 'raw'"),
        ({"layer": "counts", "size_factors": "n"}, "'total' or a column of adata.obs, got 'n'"),
        ({"layer": "counts", "size_factors": "bad"}, "must be positive, got 0 in row 0"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pef.fit_anndata(cells(), **settings)


def test_real_numbers_are_for_families_of_real_numbers():
    adata = cells(np.asarray)
    found = pef.fit_anndata(adata, pef.ExponentialFamilyPCA(1, "gaussian"))
    assert adata.obsm["X_expfam"].shape == (70, 1)
    assert found.family_.kind == "gaussian"


def test_missing_counts_are_not_taken_for_normalised_ones():
    adata = cells(np.asarray)
    adata.layers["counts"][3, 2] = np.nan
    pef.fit_anndata(adata, layer="counts")
    assert np.isfinite(adata.obsm["X_expfam"]).all()
    adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"])
    with pytest.raises(ValueError, match=r"got nan at position .*: pass mask="):
        pef.fit_anndata(adata, layer="counts")


def test_what_is_no_anndata_is_refused():
    with pytest.raises(TypeError, match="adata must be an AnnData object, got ndarray"):
        pef.fit_anndata(np.zeros((3, 2)))


def test_anndata_itself_takes_the_results():
    anndata = pytest.importorskip("anndata")
    parts = cells()
    adata = anndata.AnnData(parts.layers["counts"])
    pef.fit_anndata(adata, pef.ExponentialFamilyPCA(2, "poisson", random_state=0))
    assert adata.obsm["X_expfam"].shape == (70, 2)
    assert adata.obsm["X_expfam_cov"].shape == (70, 2, 2)
    assert adata[:5].obsm["X_expfam"].shape == (5, 2)


def on_disk(counts, folder):
    anndata = pytest.importorskip("anndata")
    # AnnData does not write the strings that pandas keeps in Arrow.
    with pd.option_context("future.infer_string", False):
        anndata.AnnData(counts).write_h5ad(folder / "cells.h5ad")
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r")


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_counts_on_disk_are_read_some_rows_at_a_time(form, tmp_path, monkeypatch):
    parts = cells(form)
    backed = on_disk(parts.layers["counts"], tmp_path)
    read, sizes = BackedTable.read, []

    def spy(self, rows):
        found = read(self, rows)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(BackedTable, "read", spy)
    monkeypatch.setattr(backed_tables, "ENTRIES_READ", 20 * 9)
    whole = SimpleNamespace(**vars(parts) | {"X": parts.layers["counts"]})
    settings = {"estimator": pef.ExponentialFamilyPCA(2, "poisson", random_state=0)}
    found = pef.fit_anndata(backed, **settings, size_factors="total")
    assert max(sizes) == 20
    assert found.n_samples_seen_ == 70
    expected = pef.fit_anndata(whole, **settings, size_factors="total")
    assert expected.guide_.loading.shape == (9, 2)
    product = backed.obsm["X_expfam"] @ backed.varm["expfam_loading"].T
    other = whole.obsm["X_expfam"] @ whole.varm["expfam_loading"].T
    np.testing.assert_allclose(product, other, atol=2e-2)


def test_a_matrix_by_columns_on_disk_is_refused(tmp_path):
    backed = on_disk(sparse.csc_matrix(cells(np.asarray).layers["counts"]), tmp_path)
    with pytest.raises(ValueError, match=r"adata\.X must be stored by rows .* got a CSC matrix"):
        pef.fit_anndata(backed)


def test_a_table_of_obsm_has_its_components_in_uns():
    adata = cells()
    adata.obsm["protein"] = pd.DataFrame(adata.layers["counts"].toarray()[:, :4])
    found = pef.fit_anndata(adata, obsm="protein")
    assert adata.uns["expfam"]["loading"].shape == (4, 2)
    assert adata.varm == {}
    assert adata.uns["expfam"]["report"].startswith(f"2 components of {found.family_}")
    with pytest.raises(ValueError, match="got 'counts' and 'protein': pass one"):
        pef.fit_anndata(adata, layer="counts", obsm="protein")
    with pytest.raises(ValueError, match=r"obsm must be one of .* got 'rna'"):
        pef.fit_anndata(adata, obsm="rna")


def test_the_guide_of_an_estimator_knows_the_genes():
    parts = cells()
    estimator = pef.ExponentialFamilyPCA(2, "poisson", random_state=0)
    pef.fit_anndata(parts, estimator, layer="counts")
    assert estimator.guide_.column_labels() == list(parts.var_names)
    with pytest.raises(ValueError, match="names must be one for each of the"):
        estimator.guide_.name_columns(["one"])
