"""Names of the rows and columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.arrays import as_numeric_array
from pyro_expfam.table_categories import Categories, categories_of, level_names, with_codes

MOST_LISTED = 5


class Names(NamedTuple):
    """Names of rows and columns; None if they have only numbers.

    Attributes:
        rows: names of rows.
        columns: names of columns.
        categories: names of the levels of each column.
    """

    rows: Sequence[Any] | None = None
    columns: Sequence[Any] | None = None
    categories: Categories | None = None

    def row(self, place: int) -> str:
        """The name of a row, or its number."""
        return str(place if self.rows is None else self.rows[place])

    def column(self, place: int) -> str:
        """The name of a column, or its number."""
        return str(place if self.columns is None else self.columns[place])

    def level(self, place: int, levels: Sequence[int]) -> str:
        """The name of a column with a level of it, by its place among the levels of all columns."""
        columns = [self.column(column) for column in range(len(levels))]
        return level_names(columns, levels, self.categories)[place]

    def of_rows(self, which: Tensor) -> str:
        """The number of rows in a boolean mask ``(N,)``, and their names."""
        listed = listing(self.row(int(place)) for place in which.nonzero().flatten())
        return f"{int(which.sum()):,} of {len(which):,} rows ({listed})"

    def of_columns(self, places: Sequence[int]) -> str:
        """The number of columns and their names, with the verb."""
        one = len(places) == 1
        listed = listing(self.column(place) for place in places)
        return f"{len(places):,} feature{'' if one else 's'} ({listed}) {'is' if one else 'are'}"


def listing(names: Iterable[str]) -> str:
    """The first of some names."""
    names = list(names)
    return ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")


def names_of(arguments: Iterable[Any], y: Tensor, present: Tensor) -> Names:
    """The labels of a table, if one of the model's arguments is a data frame with its entries.

    Named categories count as the numbers of their levels.

    Args:
        arguments: the arguments of the model.
        y: the observations, ``(N, d)``.
        present: which of them are not missing, ``(N, d)``.
    """
    for frame in arguments:
        if hasattr(frame, "columns") and getattr(frame, "shape", None) == tuple(y.shape):
            entries = _numbers(frame)
            if entries is None:
                continue
            entries = entries.to(y.device)
            if bool(((entries - y).abs() <= 1e-5 * (1 + y.abs()))[present].all()):
                return Names(list(frame.index), list(frame.columns), categories_of(frame))
    return Names()


def _numbers(frame: Any) -> Tensor | None:
    """The entries of a data frame, NaN where one is missing, or None if they are no numbers."""
    try:
        return torch.as_tensor(as_numeric_array("frame", with_codes(frame))).double()
    except (TypeError, ValueError):
        return None
