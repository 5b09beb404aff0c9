"""Categories in data frames: the numbers of their levels, and the names of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Categories = list[list[str] | None]
"""The names of the levels of each column; None for a column of numbers."""

FEWEST_IDS = 20
"""Fewer different texts or whole numbers than these are no names of the rows."""

MOST_LISTED = 10
"""Columns of which an error says the same."""

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
    named = [(place, names) for place, names in enumerate(categories_of(y) or ()) if names]
    unordered = [x for x in named if ordered and not y.dtypes.iloc[x[0]].ordered]
    if unordered:
        listed = "; ".join(f"column {_label(y, k)}, {', '.join(names)}" for k, names in unordered)
        raise ValueError(
            "y must have ordered categories for ordered answers, got categories without an "
            f"order in {listed}: say it, as by "
            'frame.astype(pandas.CategoricalDtype(["no", "maybe", "yes"], ordered=True))'
        )
    many = [f"{len(names)} in column {_label(y, k)}" for k, names in named if len(names) > levels]
    if many:
        raise ValueError(
            f"y must have at most {levels} categories in every column, the levels of the "
            f"family, got {_listed(many)}"
        )
    coded = with_codes(y)
    texts = _texts(coded)
    if texts:
        listed = _listed(
            [
                repr(value) + ("" if k is None else f" in column {_label(y, k)}")
                for k, value in texts
            ]
        )
        raise TypeError(
            f"y must hold whole numbers 0 to {levels - 1}, or categories of pandas, got "
            f"{listed}: make categories in the order of their numbers, as by "
            'frame.astype(pandas.CategoricalDtype(["no", "yes"]))'
        )
    return coded


def why_no_numbers(column: Any) -> str | None:
    """Why a column of a data frame of pandas holds no numbers, and what to do about it.

    Returns:
        None for a column of numbers, truth values or categories.

    Example:
        >>> import pandas as pd
        >>> from pyro_expfam.table_categories import why_no_numbers
        >>> why_no_numbers(pd.Series(pd.to_datetime(["2020-01-01"]))).split(":")[1]
        ' drop it, or make a number of it, such as the days since its first date'
    """
    dtype = column.dtype
    if hasattr(dtype, "categories") and hasattr(dtype, "ordered"):
        return None
    if getattr(dtype, "kind", None) in tuple("mM") or hasattr(dtype, "tz"):
        return (
            f"holds {dtype}: drop it, or make a number of it, such as the days since its first date"
        )
    if getattr(dtype, "kind", None) in tuple("biuf"):
        return None
    present = column.dropna()
    kinds = sorted({type(value).__name__ for value in present})
    if kinds == ["str"]:
        count = present.nunique()
        if count == len(column) and count > FEWEST_IDS:
            return (
                "has another text in each row, as a name of the row: drop it, or make it the index"
            )
        return (
            f"holds texts ({count} different, such as {str(present.iloc[0])!r}): make categories "
            'of them, as by column.astype("category"), the same in every frame, with ordered=True '
            "if they have an order"
        )
    if kinds == ["bool"]:
        return 'holds true and false as objects: take column.astype("boolean")'
    return (
        f"holds objects ({', '.join(kinds) or 'none'}): take column.astype(float), "
        'column.astype("category"), or drop it'
    )


def columns_without_numbers(frame: Any) -> dict[str, list[Any]]:
    """The columns of a data frame that hold no numbers, by what :func:`why_no_numbers` says.

    Objects that are all numbers, or missing, count as numbers.
    """
    found: dict[str, list[Any]] = {}
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        why = why_no_numbers(column)
        if why is not None and not _converts(column):
            found.setdefault(why, []).append(name)
    return found


def _converts(column: Any) -> bool:
    """Whether a column of objects converts to numbers; dates do not."""
    if getattr(column.dtype, "kind", None) in tuple("mM") or hasattr(column.dtype, "tz"):
        return False
    if any(isinstance(value, str) for value in column):
        return False
    try:
        column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return False
    return True


def said_once(found: Mapping[str, Sequence[Any]]) -> str:
    """What is said of columns, with their names: what holds for several columns is said once.

    Args:
        found: names of columns by what is said of them: what they hold and, after a colon, what
            to do about it.

    Example:
        >>> from pyro_expfam.table_categories import said_once
        >>> said_once({"has no entry: drop it": ["a", "b"], "is 3 in all rows: drop it": ["c"]})
        "column 'a' has no entry (and so for 'b'), column 'c' is 3 in all rows: drop it"
    """
    by_cure: dict[str, list[str]] = {}
    for words, names in found.items():
        what, _, cure = words.partition(": ")
        others = f" (and so for {_listed(list(map(repr, names[1:])))})" if len(names) > 1 else ""
        by_cure.setdefault(cure, []).append(f"column {names[0]!r} {what}{others}")
    return "; ".join(
        _listed(columns) + (f": {cure}" if cure else "") for cure, columns in by_cure.items()
    )


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - MOST_LISTED
    return ", ".join(parts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


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


def _texts(y: Any) -> list[tuple[int | None, str]]:
    """The first string of each column of a frame, with its position; or of the table, with None."""
    if hasattr(y, "dtype") and getattr(y.dtype, "kind", None) not in TEXT:
        return []
    if hasattr(y, "iloc") and hasattr(y, "columns"):
        of_each = [(place, _text_in(y.iloc[:, place])) for place in range(y.shape[1])]
        return [(place, value) for place, value in of_each if value is not None]
    value = _text_in(y)
    return [] if value is None else [(None, value)]


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
