"""Data frames as mixed tables: columns by name, and dtypes that fit their families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyro_expfam.deq.supports import BITS, describe
from pyro_expfam.families import Family
from pyro_expfam.table_categories import TEXT, with_codes
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import axis_of

MOST_NAMED = 5
"""The most names that an error lists."""


def in_order_of_names(family: Family, *tables: Any) -> list[Any]:
    """Frames with their columns in the order of a family that knows the names of its columns.

    Frames of other libraries become frames of pandas. Anything else stays as it is: a table
    without names is taken by position.

    Args:
        family: the law of the observations.
        *tables: the observations, and frames of the same columns or None.

    Raises:
        ValueError: if the observations are a frame that lacks a column, or has others.
    """
    names = family.column_names
    tables = tuple(map(as_pandas, tables))
    if names is None:
        return list(tables)
    y, *others = tables
    columns = axis_of(y, "columns")
    if columns is not None:
        _check_names(list(columns), names)
    return [_reordered(table, names) for table in (y, *others)]


def _check_names(columns: list[Any], names: Sequence[Any]) -> None:
    missing = [name for name in names if name not in columns]
    unknown = [name for name in columns if name not in names]
    repeated = sorted({name for name in columns if columns.count(name) > 1}, key=str)
    if not missing and not unknown and not repeated:
        return
    found = [
        f"{what} {_listing(which)}"
        for what, which in (
            ("without", missing),
            ("with the further", unknown),
            ("with the repeated", repeated),
        )
        if which
    ]
    raise ValueError(
        f"y must be a frame with the columns of the family, {_listing(names)}, in any order; got "
        f"one {' and '.join(found)}"
    )


def _reordered(table: Any, names: Sequence[Any]) -> Any:
    columns = axis_of(table, "columns")
    if columns is None or list(columns) == list(names) or set(columns) != set(names):
        return table
    return table[list(names)]


def as_numbers(family: Family, y: Any) -> Any:
    """A frame of pandas as numbers of the levels of categories, and the numbers that it holds.

    Anything but a frame of pandas stays as it is.

    Raises:
        TypeError: if the dtype of a column does not fit its family. The message names all columns
            that do not fit.
        ValueError: if a column has more categories than its family has levels.
    """
    if isinstance(y, Tensor) or not (hasattr(y, "iloc") and hasattr(y, "columns")):
        return y
    if y.shape[1] != family.num_columns:
        return y
    errors: list[TypeError | ValueError] = []
    for kind in family.kinds(y.shape[1]):
        for place in np.arange(y.shape[1])[kind.columns]:
            try:
                _check_column(kind.family, y.columns[place], y.iloc[:, place])
            except (TypeError, ValueError) as error:
                errors.append(error)
    if errors:
        raise type(errors[0])("; ".join(map(str, errors)))
    return with_codes(y)


def _check_column(family: Family, name: Any, column: Any) -> None:
    dtype = column.dtype
    if hasattr(dtype, "categories") and hasattr(dtype, "ordered"):
        _check_categories(family, name, dtype)
    elif getattr(dtype, "kind", None) not in tuple("biuf"):
        numbers = _numbers(column)
        if numbers is None:
            example = next((value for value in column if isinstance(value, str)), None)
            got = f"dtype {dtype}" + ("" if example is None else f" with {example!r}")
            raise TypeError(f"column {name!r} of y must hold {_wanted(family)}, got {got}")
        _check_whole(family, name, dtype, numbers)
    else:
        _check_whole(family, name, dtype, _numbers(column))


def _check_categories(family: Family, name: Any, dtype: Any) -> None:
    is_named = np.asarray(dtype.categories).dtype.kind in TEXT
    levels = family.num_levels
    if not is_named or (family.support is BITS and len(dtype.categories) == 2):
        return
    if levels is None:
        raise TypeError(
            f"column {name!r} of y must hold {_wanted(family)}, got dtype {dtype} with the "
            f"categories {_listing(list(dtype.categories))}: take Categorical("
            f"{len(dtype.categories)}), or numbers in their place"
        )
    if len(dtype.categories) > levels:
        raise ValueError(
            f"column {name!r} of y must have at most {levels} categories, the levels of {family}, "
            f"got {len(dtype.categories)}"
        )
    if not family.has_levels and not dtype.ordered:
        raise TypeError(
            f"column {name!r} of y must hold {_wanted(family)}, got categories without an order, "
            f"{_listing(list(dtype.categories))}: make them ordered, as by "
            "column.cat.as_ordered(), or take Categorical"
        )


def _check_whole(family: Family, name: Any, dtype: Any, numbers: np.ndarray | None) -> None:
    """An error for fractions in a column whose family has whole numbers alone."""
    if numbers is None or numbers.dtype.kind != "f" or not family.support.is_discrete:
        return
    broken = numbers[np.isfinite(numbers) & (numbers != np.round(numbers))]
    if len(broken):
        raise TypeError(
            f"column {name!r} of y must hold {_wanted(family)}, got dtype {dtype} with "
            f"{broken[0]:g}"
        )


def _numbers(column: Any) -> np.ndarray | None:
    """The values of a column, NaN where one is missing, or None if they are no numbers."""
    if getattr(column.dtype, "kind", None) == "M":
        return None
    try:
        found: np.ndarray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return None
    return found


def _wanted(family: Family) -> str:
    words = f"{describe(family.support)}, for {family}"
    if family.support is BITS:
        return f"{describe(family.support)} or two categories of pandas, for {family}"
    if family.num_levels is None:
        return words
    order = "" if family.has_levels else "ordered "
    return f"{describe(family.support)} or {order}categories of pandas, for {family}"


def _listing(names: Sequence[Any]) -> str:
    more = len(names) - MOST_NAMED
    listed = ", ".join(repr(name) for name in names[:MOST_NAMED])
    return listed + (f" and {more} more" if more > 0 else "")
