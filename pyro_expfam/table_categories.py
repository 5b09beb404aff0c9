"""Categories in data frames: the numbers of their levels, and the names of levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Categories = list[list[str] | None]
"""The names of the levels of each column; None for a column of numbers."""

TEXT = ("O", "U", "S", "T")
"""Kinds of arrays of NumPy that may hold strings."""


def categories_of(y: Any) -> Categories | None:
    """The categories of each column of a data frame of pandas, in the order of their numbers.

    Numbers as categories without an order are values, not names: their column counts as one of
    numbers. The order of ordered categories counts, whatever their names.

    Returns:
        None for anything but a frame with a column of named categories.

    Example:
        >>> import pandas as pd
        >>> from pyro_expfam.table_categories import categories_of
        >>> categories_of(pd.DataFrame({"colour": pd.Categorical(["red", "blue"]), "n": [1, 2]}))
        [['blue', 'red'], None]
    """
    if not (hasattr(y, "iloc") and hasattr(y, "columns")):
        return None
    found = [_named_categories(dtype) for dtype in y.dtypes]
    return found if any(names is not None for names in found) else None


def with_codes(y: Any) -> Any:
    """A frame with numbers from 0 in place of named categories, NaN where one is missing.

    Anything without named categories is returned as it is.

    Example:
        >>> import pandas as pd
        >>> from pyro_expfam.table_categories import with_codes
        >>> with_codes(pd.DataFrame({"colour": pd.Categorical(["red", None, "blue"])}))
           colour
        0     1.0
        1     NaN
        2     0.0
    """
    categories = categories_of(y)
    if categories is None:
        return y
    columns = [
        y.iloc[:, place] if names is None else _codes(y.iloc[:, place])
        for place, names in enumerate(categories)
    ]
    # By position: labels of columns may be repeated.
    frame = type(y)(dict(enumerate(columns)), index=y.index)
    frame.columns = y.columns
    return frame


def as_levels(y: Any, levels: int, ordered: bool = False) -> Any:
    """A table of categories as numbers of levels, which are not checked yet.

    Args:
        y: the table: named categories of pandas become numbers, anything else stays.
        levels: the number of levels.
        ordered: whether named categories must have an order.

    Raises:
        TypeError: if the table holds strings.
        ValueError: if a column of pandas has more categories than there are levels, or no order of
            them where one is wanted.
    """
    for place, names in enumerate(categories_of(y) or ()):
        if names is not None and ordered and not y.dtypes.iloc[place].ordered:
            raise ValueError(
                "y must have ordered categories for ordered answers, got categories without an "
                f"order in column {_label(y, place)}, {', '.join(names)}: say it, as by "
                'frame.astype(pandas.CategoricalDtype(["no", "maybe", "yes"], ordered=True))'
            )
        if names is not None and len(names) > levels:
            raise ValueError(
                f"y must have at most {levels} categories in every column, the levels of the "
                f"family, got {len(names)} in column {_label(y, place)}"
            )
    coded = with_codes(y)
    text = _first_text(coded)
    if text is not None:
        column, value = text
        where = "" if column is None else f" in column {_label(y, column)}"
        raise TypeError(
            f"y must hold whole numbers 0 to {levels - 1}, or categories of pandas, got "
            f"{value!r}{where}: make categories in the order of their numbers, as by "
            'frame.astype(pandas.CategoricalDtype(["no", "yes"]))'
        )
    return coded


def level_names(
    columns: Sequence[Any], levels: int | Sequence[int], categories: Categories | None = None
) -> list[str]:
    """Names for the levels of each column, side by side.

    Args:
        columns: the names of the columns.
        levels: the number of levels of a column, one for all or one for each. A column with one
            level is of numbers.
        categories: the names of the levels of each column; by default their numbers. A level
            without a name has its number.

    Example:
        >>> from pyro_expfam.table_categories import level_names
        >>> level_names(["wine", "beer"], 2, [["no", "yes"], None])
        ['wine=no', 'wine=yes', 'beer=0', 'beer=1']
        >>> level_names(["wine", "age"], [2, 1])
        ['wine=0', 'wine=1', 'age']
    """
    names = []
    counts = [levels] * len(columns) if isinstance(levels, int) else levels
    for place, (column, count) in enumerate(zip(columns, counts, strict=True)):
        if count == 1:
            names.append(str(column))
            continue
        known = (categories[place] if categories else None) or []
        names += [
            f"{column}={known[level] if level < len(known) else level}" for level in range(count)
        ]
    return names


def _named_categories(dtype: Any) -> list[str] | None:
    if not (hasattr(dtype, "categories") and hasattr(dtype, "ordered")):
        return None
    categories = dtype.categories
    if np.asarray(categories).dtype.kind in "biuf" and not dtype.ordered:
        return None
    return [str(category) for category in categories]


def _codes(column: Any) -> Any:
    codes = column.cat.codes.astype("float64")
    return codes.where(codes >= 0)


def _first_text(y: Any) -> tuple[int | None, str] | None:
    """The first string in a table, with the position of its column if it is a frame."""
    if hasattr(y, "dtype") and getattr(y.dtype, "kind", None) not in TEXT:
        return None
    if hasattr(y, "iloc") and hasattr(y, "columns"):
        for place in range(y.shape[1]):
            value = _text_in(y.iloc[:, place])
            if value is not None:
                return place, value
        return None
    value = _text_in(y)
    return None if value is None else (None, value)


def _text_in(values: Any) -> str | None:
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if array.dtype.kind not in TEXT:
        return None
    return next((str(value) for value in array.flat if isinstance(value, str)), None)


def _label(y: Any, place: int) -> str:
    return repr(y.columns[place])
