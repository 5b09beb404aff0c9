"""Labels of the rows and columns of data frames, in checks and errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pyro_expfam.families.row_error import RowError
from pyro_expfam.table_labels import axes_of, axis_of


class EntryError(ValueError):
    """An entry of a table is not valid.

    It may be raised anywhere in the package. Where the table enters, :meth:`of_frame` turns it into
    the error that a user sees.

    Args:
        name: the argument that holds the entry.
        wanted: what the entry should be, in words.
        got: the entry, in words.
        position: the position of the entry in the argument.
        shape: the shape of the argument.
        others: the number of further entries like it, in words.
        missing: how to mark missing entries; it may name ``frame``, the data frame.
        dtype: the dtype in which the entry was looked at, such as ``"float32"``.
    """

    def __init__(
        self,
        name: str,
        wanted: str,
        got: str,
        position: tuple[int, ...],
        shape: tuple[int, ...],
        others: str = "",
        missing: str = "mask=",
        dtype: str = "",
    ) -> None:
        self.fields = (name, wanted, got, position, shape, others, dtype)
        super().__init__(_message(name, wanted.format(missing=missing), got, position, others))

    def of_rows_from(self, begin: int) -> ValueError:
        """The error to raise, if the entry is in a part of a table whose first row is ``begin``."""
        name, wanted, got, position, shape, others, _ = self.fields
        rows = 0 if len(position) < 2 or shape[-2] == 1 else begin
        place = (*position[:-2], position[-2] + rows, position[-1])
        return ValueError(_message(name, wanted.format(missing="mask="), got, place, others))

    def of_frame(self, y: Any) -> ValueError:
        """The error to raise about a table ``y``, with labels of row and column if it has any."""
        name, wanted, got, position, shape, others, dtype = self.fields
        if name != "offset" and name != "weights":
            got = _as_given(y, position, got, dtype)
        row, column = axes_of(y)
        if column is None or len(position) < 2:
            wanted = wanted.format(missing="mask=")
            return ValueError(_message(name, wanted, got, position, others))
        labels = [
            f", {kind} {_label(axis[place])}"
            for kind, axis, place, size in (
                ("row", row, position[-2], shape[-2]),
                ("column", column, position[-1], shape[-1]),
            )
            # One number may apply to a whole row or column.
            if axis is not None and len(axis) == size
        ]
        wanted = wanted.format(missing="mask=frame.notna()")
        return ValueError(_message(name, wanted, got, position, "".join(labels) + others))


def _as_given(y: Any, position: tuple[int, ...], got: str, dtype: str) -> str:
    """An entry in words, with the number that the user gave where rounding hides it."""
    try:
        given = float((y.iloc if hasattr(y, "iloc") else y)[position])
    except (TypeError, ValueError, IndexError, KeyError):
        # Sequences, sparse tables and frames of other libraries have no entry at a position.
        return got
    with np.errstate(over="ignore"):
        rounded = float(np.float32(given)) if dtype == "float32" else given
    if not math.isfinite(given) or float(got) == given or f"{rounded:g}" != got:
        return got
    if float(got) == rounded:
        return f"{given!r}, which is {got} in {dtype}"
    return got if rounded == given and dtype == "float32" else f"{given!r}"


@contextmanager
def naming_entries_of(y: Any) -> Iterator[None]:
    """Adds the labels of row and column to errors about ``y``, if it is a data frame."""
    try:
        yield
    except EntryError as error:
        raise error.of_frame(y) from None
    except RowError as error:
        rows = axes_of(y)[0]
        name = str(error.row) if rows is None else _label(rows[error.row])
        raise ValueError(error.named(name)) from None


def by_label(name: str, entries: Any, y: Any) -> Any:
    """Entries, with a series as a column if its index is the index of the rows of the frame ``y``.

    By position, numbers in one dimension are matched with the columns.

    Raises:
        ValueError: if the labels do not say whether a series is of the rows or of the columns.
    """
    if entries is None:
        return None
    rows, columns = axes_of(y)
    index = axis_of(entries, "index")
    if rows is None or columns is None or index is None or getattr(entries, "ndim", 0) != 1:
        return entries
    of_rows, of_columns = (_has_labels(index, axis) for axis in (rows, columns))
    if of_rows == of_columns and len(rows) == len(columns) == len(index):
        labels = "both the rows and the columns" if of_rows else "neither the rows nor the columns"
        raise ValueError(
            f"{name} must be of the rows or of the columns of y, got a series whose index has the "
            f"labels of {labels}: pass {name}.to_frame() for a number per row, or "
            f"{name}.to_frame().T for a number per column"
        )
    return entries.to_frame() if of_rows and not of_columns else entries


def _has_labels(index: Sequence[Any], axis: Sequence[Any]) -> bool:
    """Whether an index has the labels of an axis, in any order."""
    return len(index) == len(axis) and set(index) == set(axis)


def check_same_order(name: str, entries: Any, y: Any) -> None:
    """Raises an error if a frame or series has the labels of the frame ``y`` in another order.

    Entries are matched by position, which would then contradict the labels.
    """
    if entries is None:
        return
    kinds = ("rows", "columns")
    ours, theirs = axes_of(y), axes_of(entries)
    if ours[1] is None:
        return
    if theirs[1] is None:
        # The index of a series is matched with the columns.
        theirs = (None, axis_of(entries, "index"))
    for kind, our, their in zip(kinds, ours, theirs, strict=True):
        if our is None or their is None or len(our) != len(their):
            continue
        our, their = list(our), list(their)
        if our != their and set(our) == set(their):
            at = next(k for k, (a, b) in enumerate(zip(our, their, strict=True)) if a != b)
            raise ValueError(
                f"{name} must have the {kind} of y in the same order, got {_label(their[at])} "
                f"where y has {_label(our[at])}: take {name}.loc[y.index, y.columns] or "
                f"{name}.reindex"
            )


def check_same_rows(name: str, entries: Any, y: Any) -> None:
    """Raises an error if a frame or series has other row labels than the frame ``y``.

    Rows are matched by position, which would then contradict the labels.
    """
    our, their = axes_of(y)[0], axis_of(entries, "index")
    if our is None or their is None or len(our) != len(their):
        return
    at = next((k for k, (a, b) in enumerate(zip(our, their, strict=True)) if a != b), None)
    if at is not None:
        raise ValueError(
            f"{name} must have the rows of y in the same order, got {_label(their[at])} where y "
            f"has {_label(our[at])} at position {at}: take {name}.loc[y.index]"
        )


def _label(label: Any) -> str:
    return repr(label.item() if hasattr(label, "item") else label)


def _message(
    name: str, wanted: str, got: str, position: tuple[int, ...], where_and_others: str
) -> str:
    return f"{name} must be {wanted}; got {got} at position {position}{where_and_others}"
