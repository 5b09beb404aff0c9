"""A table with its holes filled, in the form in which it came."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.table_categories import categories_of
from pyro_expfam.table_frames import as_pandas


def filled_like(y: Any, values: Tensor, missing: Tensor) -> Any:
    """A table with values in place of its missing entries, in the form of the table.

    A frame of pandas stays one, with its labels; categories get the name of the level, columns of
    booleans the more probable value, and columns of whole numbers become real numbers where the
    value is none. A frame of another library, a DataArray, a tensor and an array keep their kind.

    Args:
        y: the table.
        values: a value for each entry, ``(N, d)``; in columns of categories, the number of a level.
        missing: which entries to fill, ``(N, d)``.
    """
    if isinstance(y, Tensor):
        y = y if y.is_floating_point() else y.to(values)
        return torch.where(missing, values.to(y), y.nan_to_num(0.0).where(~missing, 0.0))
    holes, numbers = missing.cpu().numpy(), values.cpu().numpy()
    frame = as_pandas(y)
    if not hasattr(frame, "iloc"):
        return _array(y, numbers, holes)
    filled = _frame(frame, numbers, holes)
    if frame is y:
        return filled
    if hasattr(y, "dims"):
        return y.copy(data=filled.to_numpy())
    arrow: Any = import_module("pyarrow").Table.from_pandas(filled, preserve_index=False)
    return arrow if isinstance(y, type(arrow)) else import_module("polars").from_arrow(arrow)


def _array(y: Any, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    given = np.ma.getdata(y) if isinstance(y, np.ma.MaskedArray) else np.asarray(y)
    dtype = given.dtype if given.dtype.kind == "f" else np.float64
    filled = np.where(missing, 0.0, given)
    return np.where(missing, values, filled.astype(dtype)).astype(dtype)


def _frame(frame: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    categories = categories_of(frame) or [None] * frame.shape[1]
    columns = [
        _column(frame.iloc[:, place], values[:, place], missing[:, place], names is not None)
        for place, names in enumerate(categories)
    ]
    filled = type(frame)(dict(enumerate(columns)), index=frame.index)
    filled.columns = frame.columns
    return filled


def _column(column: Any, values: np.ndarray, missing: np.ndarray, is_named: bool) -> Any:
    if not missing.any():
        return column
    dtype = column.dtype
    if is_named:
        codes = np.where(missing, values, column.cat.codes).astype(int)
        return type(column)(dtype.categories.take(codes), index=column.index).astype(dtype)
    entries = column.astype("object")
    if str(dtype) in ("bool", "boolean"):
        return _with(entries, values >= 0.5, missing).astype(dtype)
    filled = _with(entries, values, missing)
    if str(dtype)[:1] in "IUF" and str(dtype) != "object":
        return filled.astype("Float64" if str(dtype)[0] in "IU" else dtype)
    return filled.astype(dtype if getattr(dtype, "kind", "O") == "f" else np.float64)


def _with(entries: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    entries = entries.copy()
    entries.iloc[missing] = list(values[missing])
    return entries
