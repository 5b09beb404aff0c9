"""A table on disk has the fit of the table in memory, whatever it is kept in."""

import threading
import time

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata.io import write_elem
from scipy import sparse

import pyro_expfam as pef
from pyro_expfam.tables import sources
from pyro_expfam.tables.read_ahead import read_ahead

NUM_ROWS, NUM_COLUMNS = 300, 6


@pytest.fixture
def counts():
    rate = torch.exp(torch.randn(NUM_ROWS, 2) @ torch.randn(2, NUM_COLUMNS) / 2 - 1)
    return torch.poisson(rate).numpy().astype(np.int16)


@pytest.fixture
def arguments():
    generator = np.random.default_rng(0)
    return {
        "offset": generator.normal(size=(NUM_ROWS, 1)),
        "mask": generator.random((NUM_ROWS, NUM_COLUMNS)) < 0.9,
        "weights": generator.random((NUM_ROWS, NUM_COLUMNS)),
    }


def fit_of(y, **arguments):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_COLUMNS, 2).double())
    return guide.fit(y, tol=1e-10, **arguments)


def same(table, y, **arguments):
    fit, expected = fit_of(table), fit_of(y, **arguments)
    assert fit.objective == pytest.approx(expected.objective, rel=1e-9)
    assert fit.latents.shape == expected.latents.shape


def in_zarr(path, counts, arguments):
    group = zarr.open_group(path, mode="w")
    for name, value in {"y": counts, **arguments}.items():
        group.create_array(name, data=value, chunks=(64, value.shape[1]))
    return pef.tables.zarr(path, "y", **{name: name for name in arguments})


def in_sparse_zarr(path, counts, arguments):
    group = zarr.open_group(path, mode="w")
    write_elem(group, "X", sparse.csr_matrix(counts))
    return pef.tables.zarr(path, **arguments)


def in_h5ad(path, counts, arguments):
    cells = anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        var=pd.DataFrame(index=pd.Index(list("abcdef"), dtype=object)),
        obs=pd.DataFrame(
            {"size": arguments["offset"][:, 0]},
            index=pd.Index(map(str, range(NUM_ROWS)), dtype=object),
        ),
    )
    cells.layers["present"], cells.layers["w"] = arguments["mask"], arguments["weights"]
    cells.write_h5ad(path)
    return pef.tables.h5ad(path, offset="size", mask="present", weights="w", rows_at_once=70)


def in_memmap(path, counts, arguments):
    np.save(f"{path}.npy", counts)
    np.save(f"{path}.offset.npy", arguments["offset"])
    given = {**arguments, "offset": f"{path}.offset.npy"}
    return pef.tables.memmap(f"{path}.npy", **given, rows_at_once=70)


def in_bytes(path, counts, arguments):
    counts.tofile(path)
    return pef.tables.memmap(path, np.int16, counts.shape, **arguments, rows_at_once=300)


@pytest.mark.parametrize(
    "make", [in_zarr, in_sparse_zarr, in_h5ad, in_memmap, in_bytes], ids=lambda x: x.__name__
)
def test_the_fit_is_that_of_the_table_in_memory(make, counts, arguments, tmp_path):
    same(make(str(tmp_path / "table"), counts, arguments), counts, **arguments)


def test_columns_of_a_parquet_file(counts, tmp_path):
    frame = pd.DataFrame(counts.astype(float), columns=list("abcdef"))
    frame.iloc[3, 2] = np.nan
    frame["log_size"], frame["w"] = np.linspace(-1, 1, NUM_ROWS), np.linspace(0.5, 2, NUM_ROWS)
    path = tmp_path / "table.parquet"
    frame.to_parquet(path, row_group_size=110)
    table = pef.tables.parquet(path, list("abcdef"), "log_size", weights="w", rows_at_once=70)
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_COLUMNS, 2, missing="nan").double()
    fits = [
        pef.DEQMAPGuide(model).fit(y, tol=1e-10, **given)
        for y, given in (
            (table, {}),
            (frame[list("abcdef")], {"offset": frame[["log_size"]], "weights": frame[["w"]]}),
        )
    ]
    assert fits[0].objective == pytest.approx(fits[1].objective, rel=1e-9)


def with_names(tmp_path, counts, x, index):
    frame = pd.DataFrame(counts.astype(float), columns=list("abcdef"), index=index)
    frame.join(x.set_index(frame.index)).to_parquet(tmp_path / "t.parquet", row_group_size=110)
    return frame


@pytest.mark.parametrize("kind", ["range", "text", "shuffled"])
def test_a_parquet_file_has_the_names_of_its_columns(kind, counts, tmp_path):
    x = pd.DataFrame({"age": np.linspace(-1, 1, NUM_ROWS), "dose": np.arange(NUM_ROWS) % 3 - 1.0})
    index = {
        "range": pd.RangeIndex(NUM_ROWS),
        "text": pd.Index([f"row {k}" for k in range(NUM_ROWS)]),
        "shuffled": pd.Index(np.random.default_rng(0).permutation(NUM_ROWS)),
    }[kind]
    frame = with_names(tmp_path, counts, x, index)
    table = pef.tables.parquet(tmp_path / "t.parquet", covariates=["age", "dose"], rows_at_once=70)
    guides = [
        pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 1, num_covariates=2))
        for _ in range(2)
    ]
    fits = [
        guides[0].fit(table, num_starts=1),
        guides[1].fit(frame, covariates=x.set_index(frame.index), num_starts=1),
    ]
    assert fits[0].objective == pytest.approx(fits[1].objective, rel=1e-6)
    assert guides[0].column_labels() == guides[1].column_labels() == list("abcdef")
    assert guides[0].covariate_labels() == guides[1].covariate_labels() == ["age", "dose"]
    with pytest.raises(ValueError, match="order that the guide was trained on"):
        guides[0].latents(frame[list("bacdef")], covariates=x.set_index(frame.index))
    with pytest.raises(ValueError, match="covariates must have its columns in the order"):
        guides[0].latents(frame, covariates=x.set_index(frame.index)[["dose", "age"]])


def test_covariates_of_annotated_data_have_names(counts, tmp_path):
    age = np.linspace(-1, 1, NUM_ROWS)
    with h5py.File(tmp_path / "t.h5ad", "w") as file:
        write_elem(file, "X", sparse.csr_matrix(counts.astype(np.float32)))
        file["obs/age"], file["obs/dose"] = age, -age
    for names, in_memory in (
        ("age", None),
        (["age", "dose"], None),
        (None, pd.DataFrame({"age": age})),
    ):
        given = names if in_memory is None else in_memory
        wanted = ["age", "dose"] if isinstance(names, list) else ["age"]
        table = pef.tables.h5ad(tmp_path / "t.h5ad", covariates=given)
        model = pef.ExpFamPCA(pef.families.Poisson(), 6, 1, num_covariates=len(wanted))
        guide = pef.DEQMAPGuide(model)
        guide.fit(table, num_starts=1, max_sweeps=3, max_time=60.0, callback=lambda _: True)
        assert guide.covariate_labels() == wanted


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("rows_at_once", [7, 64, 300])
def test_parts_are_all_rows_in_order(count, rows_at_once, counts, tmp_path):
    np.save(tmp_path / "y.npy", counts)
    table = pef.tables.memmap(tmp_path / "y.npy", rows_at_once=rows_at_once)
    parts = [table.part(number, count) for number in range(count)]
    batches = [batch["y"] for part in parts for batch in part]
    assert np.array_equal(np.concatenate(batches), counts)
    assert max(map(len, batches)) <= rows_at_once
    sizes = [part.num_rows for part in parts]
    assert sum(sizes) == NUM_ROWS
    assert max(sizes) - min(sizes) <= max(rows_at_once, 1)


def test_sparse_rows_are_read_as_they_are_stored(counts, tmp_path):
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        write_elem(file, "X", sparse.csr_matrix(counts))
    table = pef.tables.h5ad(tmp_path / "x.h5ad", rows_at_once=70)
    batches = [batch["y"] for batch in table]
    assert all(sparse.issparse(y) for y in batches)
    assert np.array_equal(sparse.vstack(batches).toarray(), counts)


def test_batches_are_whole_chunks_of_the_store(counts, tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "y", data=counts, chunks=(32, 6))
    assert pef.tables.zarr(tmp_path / "y").rows_at_once % 32 == 0
    monkeypatch.setattr("pyro_expfam.tables.table_on_disk.BATCH_BYTES", 80 * 12)
    assert pef.tables.zarr(tmp_path / "y").rows_at_once == 64


def test_a_store_that_changes_between_passes_is_refused(counts, tmp_path):
    np.save(tmp_path / "y.npy", counts)

    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_COLUMNS, 2))
    array = np.load(tmp_path / "y.npy", mmap_mode="r+")
    table = pef.tables.memmap(tmp_path / "y.npy", rows_at_once=70)

    def change_in_place(sweep):
        array[100, 3] += 1
        array.flush()

    with pytest.raises(ValueError, match="other rows in batch 1"):
        guide.fit(table, callback=change_in_place)


def test_a_sparse_batch_that_changes_is_refused(counts):
    class Changing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            y = sparse.csr_matrix(counts)
            y.data = y.data + (self.passes > 2)
            return iter([y[:100], y[100:]])

    with pytest.raises(ValueError, match="other rows in batch 0"):
        fit_of(Changing())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: pef.tables.zarr(p / "group", "z"), KeyError, "has no 'z', but"),
        (lambda p: pef.tables.zarr(p / "group"), ValueError, "compressed by row.*tocsr"),
        (lambda p: pef.tables.zarr(p / "group", "words"), ValueError, "must hold numbers"),
        (
            lambda p: pef.tables.zarr(p / "group", "y", offset="short"),
            ValueError,
            "as many rows as y.*'offset': 5",
        ),
        (
            lambda p: pef.tables.zarr(p / "group", "y", weights=np.ones((7, 6))),
            ValueError,
            "weights must have a row for each of the 300 rows",
        ),
        (
            lambda p: pef.tables.zarr(p / "group", "y", rows_at_once=0),
            ValueError,
            "rows_at_once must be a whole number",
        ),
        (lambda p: pef.tables.memmap(p / "y", np.int8), ValueError, "come together"),
        (
            lambda p: pef.tables.memmap(p / "t.parquet", np.int16, (3, 2)),
            ValueError,
            r"got int16 of \(3, 2\), which takes 12 bytes, and .*t.parquet has",
        ),
        (
            lambda p: pef.tables.h5ad(p / "t.parquet"),
            OSError,
            "path must be a file of AnnData",
        ),
        (lambda p: pef.tables.parquet(p / "t.parquet", ["b"]), KeyError, "has no columns"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message, counts, tmp_path):
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("y", data=counts)
    group.create_array("short", data=np.ones((5, 1)))
    group.create_array("words", data=np.array([1j, 2j]))
    write_elem(group, "X", sparse.csc_matrix(counts))
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(error, match=message):
        make(tmp_path)


def test_what_takes_no_batches_says_so(counts, tmp_path):
    np.save(tmp_path / "y.npy", counts)
    table = pef.tables.memmap(tmp_path / "y.npy")
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), counts.shape[1], 1))
    guide.fit(table)
    with pytest.raises(TypeError, match="y must be one table here, got a TableOnDisk"):
        guide.latents(table)
    assert torch.cat([guide.latents(**batch) for batch in table]).shape == (len(counts), 1)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(ImportError, match="needs zarr, which is not installed: pip install zarr"):
        pef.tables.zarr(tmp_path)


def test_what_comes_next_is_read_in_the_meantime():
    read = []

    def items():
        for k in range(9):
            read.append((k, threading.current_thread().name))
            yield k

    taken = read_ahead(items())
    assert next(taken) == 0
    limit = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < limit:
        time.sleep(0.01)
    assert [k for k, _ in read] == [0, 1, 2]
    assert {name for _, name in read} == {"pyro_expfam-read-ahead"}
    assert list(taken) == list(range(1, 9))


def test_an_error_in_reading_is_raised_where_the_batch_is_wanted():
    def items():
        yield 1
        raise OSError("the disk is gone")

    taken = read_ahead(items())
    assert next(taken) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(taken)


def test_the_thread_ends_with_the_iteration():
    taken = read_ahead(iter(range(100)))
    next(taken)
    taken.close()
    limit = time.monotonic() + 10
    while time.monotonic() < limit and any(
        thread.name == "pyro_expfam-read-ahead" for thread in threading.enumerate()
    ):
        time.sleep(0.01)
    assert not any(x.name == "pyro_expfam-read-ahead" for x in threading.enumerate())


def test_a_group_of_rows_of_parquet_is_read_once(tmp_path):
    import pyarrow.parquet

    pd.DataFrame({"a": np.arange(50.0)}).to_parquet(tmp_path / "t", row_group_size=20)
    file = pyarrow.parquet.ParquetFile(tmp_path / "t")
    rows, read = sources.ParquetRows(file, ["a"]), []
    real = file.read_row_group
    rows._file = type(
        "Counting",
        (),
        {"read_row_group": lambda self, k, columns: read.append(k) or real(k, columns=columns)},
    )()
    found = [rows.read(slice(k, k + 7))["a"].tolist() for k in range(0, 49, 7)]
    assert [x for part in found for x in part] == list(map(float, range(49)))
    assert read == [0, 1, 2]


@pytest.mark.parametrize("layer", [None, "present"], ids=["sparse", "dense"])
def test_a_guide_remembers_the_genes_of_a_file_of_anndata(layer, tmp_path):
    counts = np.random.default_rng(0).poisson(2.0, (NUM_ROWS, 6)).astype(np.float32)
    genes = pd.Index([f"gene {k}" for k in range(6)], dtype=object)
    rows = pd.Index(map(str, range(NUM_ROWS)), dtype=object)
    cells = anndata.AnnData(
        sparse.csr_matrix(counts), var=pd.DataFrame(index=genes), obs=pd.DataFrame(index=rows)
    )
    cells.layers["present"] = counts
    cells.write_h5ad(tmp_path / "cells.h5ad")
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
    guide.fit(pef.tables.h5ad(tmp_path / "cells.h5ad", layer, rows_at_once=70))
    assert guide.column_labels() == list(genes)
    frame = cells.to_df()
    torch.testing.assert_close(guide.latents(frame), guide.latents(counts))
    with pytest.raises(ValueError, match="columns in the order that the guide was trained on"):
        guide.latents(frame[genes[::-1]])


def test_numbers_of_genes_are_no_names(tmp_path):
    counts = np.random.default_rng(0).poisson(2.0, (NUM_ROWS, 6)).astype(np.float32)
    numbers = [pd.DataFrame(index=pd.Index(map(str, range(n)), dtype=object)) for n in counts.shape]
    anndata.AnnData(counts, *numbers).write_h5ad(tmp_path / "cells.h5ad")
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
    guide.fit(pef.tables.h5ad(tmp_path / "cells.h5ad"))
    assert guide.column_labels() is None
    guide.latents(pd.DataFrame(counts, columns=list("abcdef")))


def test_a_fit_warns_of_columns_that_no_batch_has_an_entry_of():
    y = np.random.default_rng(0).poisson(2.0, (60, 4)).astype(np.float32)
    y[:, 3], y[:20, 1] = np.nan, np.nan
    frame = pd.DataFrame(y, columns=["ash", "elm", "fir", "oak"])

    class Batches:
        def __iter__(self):
            return (frame[k : k + 20] for k in range(0, 60, 20))

    for table in (frame, Batches()):
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 4, 1, missing="nan"))
        with pytest.warns(UserWarning, match="leave no entry of column 'oak': loading"):
            guide.fit(table)
