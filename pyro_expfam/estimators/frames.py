"""Data frames as tables of numbers, with their categories as they were in the fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_expfam.families import Columns
from pyro_expfam.prediction.filled_table import filled_like
from pyro_expfam.table_categories import (
    categories_of,
    columns_without_numbers,
    said_once,
    with_codes,
)

Levels = list[Any]
"""The categories of each column; None for a column of numbers."""


def is_frame(X: Any) -> bool:
    """Whether a table is a data frame of pandas."""
    return hasattr(X, "iloc") and hasattr(X, "columns")


def has_kinds(frame: Any) -> bool:
    """Whether a frame has columns that differ in kind, or are no numbers.

    A frame of bits alone, of whole numbers or of real numbers alone is a table of one family.
    """
    kinds = set()
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if getattr(column.dtype, "kind", None) not in tuple("biuf"):
            return True
        kinds.add(_kind(column))
    return len(kinds) > 1


def _kind(column: Any) -> str:
    values = column.dropna().to_numpy(dtype=float)
    if not (values == values.round()).all() or (values < 0).any():
        return "reals"
    return "bits" if (values <= 1).all() else "counts"


def in_order_of(frame: Any, family: Columns) -> Columns:
    """The laws of named columns in the order of a frame, which must have these columns.

    Raises:
        ValueError: if the frame lacks a column, or has others.
    """
    laws = family.laws
    if family.names is None or list(family.names) == list(frame.columns):
        return family
    missing = [name for name in family.names if name not in frame.columns]
    unknown = [name for name in frame.columns if name not in laws]
    if missing or unknown:
        raise ValueError(
            f"X must have the columns of the family, got a frame without {missing} and with the "
            f"further {unknown}"
        )
    return Columns({name: laws[name] for name in frame.columns})


def levels_of(frame: Any) -> Levels | None:
    """The categories of each column of a frame, as they stand in it; None for columns of numbers.

    Returns:
        None for anything but a frame with a column of named categories.
    """
    names = categories_of(frame)
    if names is None:
        return None
    dtypes = frame.dtypes
    return [None if x is None else dtypes.iloc[k].categories for k, x in enumerate(names)]


def coded(frame: Any, known: Levels | None) -> Any:
    """A frame with numbers in place of named categories, as they were in the fit.

    Args:
        frame: the frame.
        known: the categories of each column in the fit, or None in the fit itself.

    Raises:
        TypeError: if columns hold neither numbers nor categories; the message names all of them.
        ValueError: if a column has categories that it did not have in the fit.
    """
    if known is not None and len(known) == frame.shape[1]:
        frame = with_categories(frame, known)
    frame = with_codes(frame)
    found = columns_without_numbers(frame)
    if found:
        raise TypeError(f"X must hold numbers or categories in all columns; {said_once(found)}")
    return frame


def with_categories(frame: Any, known: Levels) -> Any:
    """The frame with the categories of the fit in their order.

    Args:
        frame: the frame.
        known: the categories of each column in the fit; None for a column of numbers.

    Raises:
        ValueError: if a column has categories that it did not have in the fit, or has them where
            the fit had numbers.
    """
    columns = []
    named = categories_of(frame) or [None] * frame.shape[1]
    for place, (ours, theirs) in enumerate(zip(known, named, strict=True)):
        column, name = frame.iloc[:, place], frame.columns[place]
        if ours is None and theirs is not None:
            raise ValueError(
                f"column {name!r} of X must hold numbers, as in the fit, got the categories "
                f"{theirs}: take X[{name!r}].astype(float), or fit again with categories"
            )
        if ours is not None:
            column = _of_levels(column, name, list(ours), theirs is not None)
        columns.append(column)
    found = type(frame)(dict(enumerate(columns)), index=frame.index)
    found.columns = frame.columns
    return found


def _of_levels(column: Any, name: Any, levels: list[Any], is_named: bool) -> Any:
    """A column with the categories of the fit, which are told by their names."""
    of_fit = {str(level): level for level in levels}
    if not is_named:
        if column.notna().any():
            raise ValueError(
                f"column {name!r} of X must hold the categories {list(of_fit)}, as in the fit, "
                f"got dtype {column.dtype}"
            )
        return column
    new = [level for level in column.cat.categories if str(level) not in of_fit]
    if new and column.isin(new).any():
        raise ValueError(
            f"column {name!r} of X must hold the categories {list(of_fit)}, as in the fit, got "
            f"the new {[str(level) for level in new]}: make them missing, or fit again with rows "
            "of them"
        )
    # Numbers and intervals are categories too, and a category of another type is missing to pandas.
    column = column.cat.rename_categories(lambda level: of_fit.get(str(level), level))
    return column.cat.set_categories(levels)


def filled_frame(frame: Any, values: Tensor, missing: Tensor, known: Levels | None) -> Any:
    """A copy of a frame, with numbers or categories of the fit in its missing entries.

    Args:
        frame: the frame.
        values: what stands in each entry, ``(N, d)``: a number, or the number of a category.
        missing: which entries to fill, ``(N, d)``.
        known: the categories of each column in the fit, or None.
    """
    if known is not None:
        frame = with_categories(frame, known)
        named = torch.tensor([names is not None for names in known])
        # Two categories are bits, with a probability for a mean.
        values = torch.where(named, values.round(), values)
    return filled_like(frame, values, missing)
