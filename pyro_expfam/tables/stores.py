"""Tables in the stores that people keep them in."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pyro_expfam.table_labels import are_numbered
from pyro_expfam.tables.sources import ArrayRows, CompressedRows, NamedRows, ParquetRows, RowSource
from pyro_expfam.tables.table_on_disk import TableOnDisk

Pathlike = str | os.PathLike[str]

ARGUMENTS = ("offset", "mask", "weights", "covariates")


def zarr(
    path: Pathlike,
    y: str | None = None,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    rows_at_once: int | None = None,
) -> TableOnDisk:
    """A table in a store of Zarr.

    Args:
        path: the store: an array, or a group of arrays such as AnnData writes.
        y: the name of the observations in a group: an array ``(N, d)``, or compressed sparse rows.
            By default ``"X"``.
        offset: the name of an array in the group with a row per row of ``y``, or a number or an
            array in memory. So are the next three.
        mask: False for a missing entry.
        weights: of the log densities of entries.
        covariates: known numbers of each row.
        rows_at_once: rows of a batch; by default some 32 MB, in whole chunks.

    Raises:
        ImportError: if ``zarr`` is not installed.
        KeyError: if the group has no array of a name.
        ValueError: if numbers of rows differ, or sparse rows are not compressed by row.

    Example:
        >>> import numpy as np
        >>> import tempfile
        >>> import zarr
        >>> import pyro_expfam as pef
        >>> folder = tempfile.TemporaryDirectory()
        >>> counts = np.random.default_rng(0).poisson(1.0, (1000, 6))
        >>> _ = zarr.save(f"{folder.name}/counts.zarr", counts)
        >>> table = pef.tables.zarr(f"{folder.name}/counts.zarr")
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
        >>> guide.fit(table).converged
        True
    """
    store = _module("zarr").open(str(path), mode="r")
    given = dict(zip(ARGUMENTS, (offset, mask, weights, covariates), strict=True))
    if not hasattr(store, "keys"):
        return _table(ArrayRows(store), given, {}, rows_at_once)
    rows = _rows(_entry(store, "X" if y is None else y, path))
    named = {
        name: _rows(_entry(store, value, path))
        for name, value in given.items()
        if isinstance(value, str)
    }
    return _table(rows, given, named, rows_at_once)


def h5ad(
    path: Pathlike,
    layer: str | None = None,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    rows_at_once: int | None = None,
) -> TableOnDisk:
    """Counts of cells in a file of AnnData, which stays on disk.

    Sparse counts must be compressed by row, as AnnData writes them by default. They stay sparse
    until a tile of them is computed with.

    Args:
        path: the file.
        layer: the layer with the observations; by default ``X``.
        offset: a column of ``obs``, or a number or an array in memory. So are the next two, which
            may also be layers.
        mask: False for a missing entry.
        weights: of the log densities of entries.
        covariates: a column of ``obs`` or several, a matrix of ``obsm``, or an array in memory.
        rows_at_once: rows of a batch; by default some 32 MB.

    Raises:
        KeyError: if the file has no such layer or column.
        ValueError: if counts are compressed by column, or a column holds no numbers.
    """
    try:
        file = _module("h5py").File(os.fspath(path), "r")
    except OSError as error:
        raise type(error)(
            f"path must be a file of AnnData, got {os.fspath(path)!r}: {error}"
        ) from None
    rows = _rows(_entry(file, "X" if layer is None else f"layers/{layer}", path))
    given = dict(zip(ARGUMENTS, (offset, mask, weights, covariates), strict=True))
    named: dict[str, RowSource] = {}
    for name, value in given.items():
        if isinstance(value, str):
            places = (f"layers/{value}", f"obsm/{value}", f"obs/{value}")
            place = next((x for x in places if x in file), f"obs/{value}")
            found = _rows(_entry(file, place, path))
            is_named = name == "covariates" and place.startswith("obs/")
            named[name] = NamedRows(found, [value]) if is_named else found
        elif name == "covariates" and _are_names(value):
            columns = [_rows(_entry(file, f"obs/{x}", path)) for x in value]
            parts = [column.read(slice(0, column.num_rows)) for column in columns]
            named[name] = NamedRows(ArrayRows(np.concatenate(parts, 1)), value)
    return _table(rows, given, named, rows_at_once, _names_of_genes(file))


def _names_of_genes(file: Any) -> list[str] | None:
    """The names of the columns in a file of AnnData, if it has them."""
    index = file["var"].attrs.get("_index") if "var" in file else None
    if index is None or index not in file["var"]:
        return None
    names = file["var"][index]
    # Strings that may be missing are stored beside a mask.
    names = names["values"] if hasattr(names, "keys") else names
    if not hasattr(names, "asstr"):
        return None
    found = [str(x) for x in names.asstr()[:]]
    return None if are_numbered(found) else found


def parquet(
    path: Pathlike,
    columns: Sequence[str] | None = None,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    rows_at_once: int | None = None,
) -> TableOnDisk:
    """Columns of a Parquet file. Missing values are NaN.

    Args:
        path: the file.
        columns: the names of the columns of ``y``; by default all that no other argument names.
        offset: the name of a column, or a number or an array in memory. So are the next two.
        mask: False for a missing entry.
        weights: of the log densities of entries.
        covariates: the names of some columns, or an array in memory.
        rows_at_once: rows of a batch; by default some 32 MB, in whole row groups.

    Raises:
        ImportError: if ``pyarrow`` is not installed.
        KeyError: if the file has no such column.
        ValueError: if numbers of rows differ.
    """
    file = _module("pyarrow.parquet").ParquetFile(os.fspath(path))
    there = list(file.schema_arrow.names)
    given = dict(zip(ARGUMENTS, (offset, mask, weights, covariates), strict=True))
    named: dict[str, RowSource] = {}
    of_given: dict[str, list[str]] = {}
    for name, value in given.items():
        wanted = [value] if isinstance(value, str) else value if _are_names(value) else None
        if wanted is not None:
            of_given[name] = _known(wanted, there, path)
    if columns is None:
        taken = set(chain(*of_given.values()))
        columns = [name for name in there if name not in taken]
    # The index of a frame is stored as columns, and names the rows of all frames or of none.
    index = [name for name in _index_columns(file) if name in columns]
    for name, wanted in of_given.items():
        is_frame = name == "covariates"
        read = [*wanted, *index] if is_frame else wanted
        named[name] = ParquetRows(file, read, as_vector=not is_frame)
    return _table(ParquetRows(file, _known(columns, there, path)), given, named, rows_at_once)


def memmap(
    path: Pathlike,
    dtype: Any = None,
    shape: tuple[int, int] | None = None,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    rows_at_once: int | None = None,
) -> TableOnDisk:
    """An array of NumPy in a file.

    Args:
        path: a file ``.npy``, or the bytes of an array alone.
        dtype: of an array of bytes alone.
        shape: of an array of bytes alone, ``(N, d)``, row by row.
        offset: a number, an array in memory, or the path of a file ``.npy`` with a row per row of
            ``y``. So are the next three.
        mask: False for a missing entry.
        weights: of the log densities of entries.
        covariates: known numbers of each row.
        rows_at_once: rows of a batch; by default some 32 MB.

    Raises:
        ValueError: if a file of bytes alone comes without dtype and shape, or has another size than
            they say, or numbers of rows differ.
    """
    if (dtype is None) != (shape is None):
        raise ValueError(f"dtype and shape must come together, got {dtype!r} and {shape!r}")
    if dtype is None or shape is None:
        array = np.load(path, mmap_mode="r")
    else:
        wanted, there = math.prod(shape) * np.dtype(dtype).itemsize, os.path.getsize(path)
        if wanted != there:
            raise ValueError(
                "dtype and shape must be the dtype and the shape of the array in the file, got "
                f"{np.dtype(dtype)} of {shape}, which takes {wanted:,} bytes, and "
                f"{os.fspath(path)} has {there:,}"
            )
        array = np.memmap(path, dtype=dtype, mode="r", shape=shape)
    given = dict(zip(ARGUMENTS, (offset, mask, weights, covariates), strict=True))
    named: dict[str, RowSource] = {
        name: ArrayRows(np.load(value, mmap_mode="r"))
        for name, value in given.items()
        if isinstance(value, str | Path)
    }
    return _table(ArrayRows(array), given, named, rows_at_once)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"this table needs {package}, which is not installed: pip install {package}"
        ) from error


def _table(
    y: RowSource,
    given: dict[str, Any],
    named: dict[str, RowSource],
    rows_at_once: int | None,
    names: list[str] | None = None,
) -> TableOnDisk:
    """The table, with what is given in memory by row or for all rows."""
    sources, constants = {"y": y, **named}, {}
    for name, value in given.items():
        if value is None or name in named:
            continue
        shape = np.shape(value)
        if len(shape) == 2 and shape[0] == y.num_rows and y.num_rows > 1:
            rows = ArrayRows(value if hasattr(value, "dtype") else np.asarray(value))
            is_named = name == "covariates" and hasattr(value, "columns")
            sources[name] = NamedRows(rows, list(value.columns)) if is_named else rows
        elif len(shape) < 2 or shape[0] == 1:
            constants[name] = value
        else:
            raise ValueError(
                f"{name} must have a row for each of the {y.num_rows:,} rows of y, or one for all, "
                f"got shape {shape}"
            )
    return TableOnDisk(sources, constants, rows_at_once, names)


def _entry(store: Any, name: str, path: Pathlike) -> Any:
    if name not in store:
        raise KeyError(f"{os.fspath(path)} has no {name!r}, but {sorted(store.keys())}")
    return store[name]


def _rows(entry: Any) -> RowSource:
    """The rows of an array, or of a sparse matrix as AnnData writes it."""
    if hasattr(entry, "dtype"):
        if entry.dtype.kind not in "biuf":
            raise ValueError(f"{entry.name} must hold numbers, got dtype {entry.dtype}")
        return ArrayRows(entry)
    kind = entry.attrs.get("encoding-type", "group")
    if kind != "csr_matrix":
        raise ValueError(
            f"{entry.name} must be an array, or a sparse matrix compressed by row, got a "
            f"{kind}: write it anew with X = X.tocsr()"
            if kind == "csc_matrix"
            else f"{entry.name} must hold numbers, got a {kind}"
        )
    return CompressedRows(entry, entry.attrs["shape"])


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)


def _index_columns(file: Any) -> list[str]:
    """The columns of a Parquet file that are the index of the frame that was written."""
    metadata = file.schema_arrow.pandas_metadata or {}
    return [name for name in metadata.get("index_columns", ()) if isinstance(name, str)]


def _known(names: Sequence[str], there: list[str], path: Pathlike) -> list[str]:
    unknown = [name for name in names if name not in there]
    if unknown:
        raise KeyError(f"{os.fspath(path)} has no columns {unknown}, but {there}")
    return list(names)
