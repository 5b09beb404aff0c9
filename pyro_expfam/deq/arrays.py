"""Conversion of arrays, data frames and sequences to arrays that PyTorch accepts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from pyro_expfam.table_categories import columns_without_numbers, said_once
from pyro_expfam.table_labels import is_lazy


def as_numeric_array(name: str, value: Any) -> np.ndarray:
    """Numbers as an array of a dtype that PyTorch has, with NaN for missing values of a frame.

    Args:
        name: the name of the argument, for errors.
        value: an array, a data frame or nested sequences of numbers.

    Raises:
        TypeError: if ``value`` does not hold real numbers, or is not dense.
        ValueError: if ``value`` has no shape, or is an array with masked entries.
    """
    refuse_no_table(name, value)
    array = _from_nullable(value) if _is_nullable(value) else None
    if array is None:
        array = _as_array(name, value)
    if array.dtype == object:
        array = _from_objects(name, array, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got an array of dtype {array.dtype}")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return _as_torch_takes_it(array)


def as_boolean_array(name: str, value: Any) -> np.ndarray:
    """Truth values as an array; the arguments are as in :func:`as_numeric_array`.

    Raises:
        TypeError: if ``value`` does not hold truth values, or is not dense.
        ValueError: if ``value`` has no shape, or some values are missing.
    """
    array = _as_array(name, value)
    if array.dtype == object:
        missing = _is_missing(array)
        if missing.any():
            position = tuple(map(int, np.argwhere(missing)[0]))
            raise ValueError(
                f"{name} must be True or False everywhere, got a missing value at position "
                f"{position}"
            )
        if all(isinstance(entry, bool | np.bool_) for entry in array.flat):
            array = array.astype(np.bool_)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must hold booleans, got dtype {array.dtype}")
    return _as_torch_takes_it(array)


SPARSE_METHODS = "fit, latents, posterior and log_evidence of a guide take a sparse table as it is"
"""What errors say where a sparse table comes in place of a dense one."""


def without_masked_array(value: Any) -> Any:
    """A masked array of NumPy with NaN in place of what it masks; anything else as it is."""
    if not isinstance(value, np.ma.MaskedArray):
        return value
    present = np.asarray(value.data, dtype=np.float64)
    return np.where(np.ma.getmaskarray(value), np.nan, present)


def refuse_no_table(name: str, value: Any) -> None:
    """An error if a value is what a table could be read or made from, and no table yet.

    Raises:
        TypeError: if it is None, the path of a file, a dictionary, a dataset of single rows, or a
            frame that waits for its numbers.
    """
    if value is None:
        raise TypeError(f"{name} must be a table of numbers, got None")
    if isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{name} must be a table of numbers, got the text {os.fspath(value)!r}: if it is the "
            "path of a file, the functions of pyro_expfam.tables open Parquet, Zarr, AnnData and "
            "NumPy files, and pandas reads many others"
        )
    if isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a table of numbers, got a {type(value).__name__} with the keys "
            f"{', '.join(map(repr, list(value)[:5]))}: make columns a table by "
            "pandas.DataFrame(...), or pass arguments by name, as in fit(**arguments)"
        )
    if isinstance(value, Dataset) and not isinstance(value, Iterable):
        # As a sequence it might never end.
        raise TypeError(
            f"{name} must be a table of numbers or batches of its rows, got a "
            f"{type(value).__name__}, whose items are single rows: wrap it, as in "
            "torch.utils.data.DataLoader(dataset, batch_size=1_000)"
        )
    if hasattr(value, "obs_names") and hasattr(value, "var_names"):
        raise TypeError(
            f"{name} must be a table of numbers, got an {type(value).__name__}: pass its to_df(), "
            "whose columns have the names of the genes, or its X; pyro_expfam.tables.h5ad reads it "
            "from a file, and pyro_expfam.estimators.fit_anndata fits it as it is"
        )
    if is_lazy(value):
        raise TypeError(
            f"{name} must hold its numbers, got a {type(value).__name__}, which has yet to be "
            "evaluated: take its collect()"
        )


def _as_array(name: str, value: Any) -> np.ndarray:
    refuse_no_table(name, value)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} must be a plain array, got a masked one: pass its data, and mask= with "
            "True where an entry is present"
        )
    if hasattr(value, "toarray"):
        raise TypeError(
            f"{name} must be dense, got a sparse array: pass its toarray(), or of a large table "
            f"that of some rows, as in y[rows].toarray(). {SPARSE_METHODS}"
        )
    if _gives_batches(value):
        raise TypeError(
            f"{name} must be one table here, got a {type(value).__name__}, which gives batches: "
            "only fit takes these. Call this with one batch after another"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a table of numbers, got no array: {error}") from None


def _gives_batches(value: Any) -> bool:
    """Whether a value is a loader: it has items one after another, and is no array of them."""
    is_table = hasattr(value, "shape") or hasattr(value, "__array__")
    is_other = isinstance(value, Sequence | Mapping | Set)
    return isinstance(value, Iterable) and not (is_table or is_other)


def _is_nullable(value: Any) -> bool:
    """Whether a frame or series of pandas has a dtype with a missing value of its own."""
    dtypes = getattr(value, "dtypes", ())
    each = dtypes if hasattr(dtypes, "__iter__") else [dtypes]
    return any(hasattr(dtype, "na_value") for dtype in each)


def _from_nullable(value: Any) -> np.ndarray | None:
    """An array made without an object per number, or None if not all values are numbers."""
    try:
        array: np.ndarray = value.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return None
    return array


def _from_objects(name: str, array: np.ndarray, value: Any) -> np.ndarray:
    present = np.where(_is_missing(array), np.nan, array)
    try:
        return present.astype(np.float64)
    except (TypeError, ValueError) as error:
        got = _columns_that_do_not(value) if hasattr(value, "iloc") and array.ndim == 2 else ""
        got = got or f"got an object array that does not convert: {error}"
        raise TypeError(f"{name} must hold numbers; {got}") from None


def _columns_that_do_not(frame: Any) -> str:
    """The columns of a data frame that hold no numbers, in words; empty without any."""
    found: dict[str, list[Any]] = {}
    for why, names in columns_without_numbers(frame).items():
        what, _, _ = why.partition(": ")
        found.setdefault(what, []).extend(names)
    cure = "leave them out, or take Columns for y, with a family for each column"
    return said_once({f"{what}: {cure}": names for what, names in found.items()})


def _is_missing(array: np.ndarray) -> np.ndarray:
    """Which entries of an array of objects are missing values of Python or pandas."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        return pandas.isna(array)
    return np.frompyfunc(lambda entry: entry is None, 1, 1)(array).astype(np.bool_)


def _as_torch_takes_it(array: np.ndarray) -> np.ndarray:
    """The array, or a copy if PyTorch cannot use its memory.

    Data frames give read-only arrays, which PyTorch does not support.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return array
