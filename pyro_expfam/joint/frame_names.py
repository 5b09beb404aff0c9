"""Names in frames that are parts of one table: the same in every batch and in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.processes import Processes, digest
from pyro_expfam.families import Family
from pyro_expfam.table_categories import Categories, categories_of
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import labels_of

MOST_NAMED = 5
"""The most categories that an error lists."""


class FrameNames(NamedTuple):
    """What some rows say of their columns; arrays say nothing, and are taken by position.

    Attributes:
        columns: the names of the columns of ``y``, in the order of the family, or None.
        categories: the categories of these columns, or None.
        covariates: the names of the covariates, or None.
    """

    columns: list[str] | None
    categories: Categories | None
    covariates: list[str] | None

    @classmethod
    def of(cls, family: Family, y: Any, covariates: Any) -> FrameNames:
        """The names in some rows of a table."""
        (y,) = in_order_of_names(family, y)
        return cls(_columns(y), categories_of(y), _columns(as_pandas(covariates)))

    def check(self, first: FrameNames, part: str) -> None:
        """An error if the first part of the table has other names.

        Args:
            first: the names of the first part.
            part: what the parts are, such as ``"batch"``.

        Raises:
            ValueError: if columns, their order or their categories differ.
        """
        _check_columns("y", self.columns, first.columns, part)
        _check_columns("covariates", self.covariates, first.covariates, part)
        both = zip(self.categories or [], first.categories or [], strict=False)
        for place, (own, theirs) in enumerate(both):
            if own is not None and theirs is not None and own != theirs:
                name = place if self.columns is None else self.columns[place]
                raise ValueError(
                    f"y must have the same categories in every {part}, got {_listing(own)} in "
                    f"column {name!r} where the first {part} has {_listing(theirs)}: the number "
                    "of a level would mean another one. Give all of them one "
                    "pandas.CategoricalDtype, as by frame.astype({column: dtype})"
                )


def without_rows(family: Family, y: Any, covariates: Any) -> tuple[Any, Any]:
    """Frames of ``y``, in the order of the family, and of covariates with names and no rows."""
    both = (*in_order_of_names(family, y), as_pandas(covariates))
    y, covariates = (x.iloc[:0] if hasattr(x, "iloc") else None for x in both)
    return y, covariates


def with_names_of(loader: Any, named: tuple[Any, Any]) -> tuple[Any, Any]:
    """Frames without rows as of :func:`without_rows`, with names that the loader knows.

    Args:
        loader: what gives the batches. Its ``column_names`` name the columns of batches that are no
            frames, such as sparse counts of genes.
        named: the frames of ``y`` and of covariates that a batch has named, or None.
    """
    y, covariates = named
    names = getattr(loader, "column_names", None)
    if y is not None or names is None:
        return named
    import pandas as pd

    return pd.DataFrame(columns=list(names), dtype=float), covariates


def check_names_in_processes(processes: Processes, own: FrameNames | None) -> None:
    """An error in a process whose rows have other names than the rows of the first.

    Args:
        processes: the processes that hold the rows.
        own: the names in the rows of this process; None if it has no rows.
    """
    if processes.count == 1:
        return
    # Names of columns are long, and nearly always the same.
    kinds = processes.gather(None if own is None else digest(repr(own).encode()))
    if len(set(kinds) - {None}) < 2:
        return
    known = [x for x in processes.gather(own) if x is not None]
    if own is not None:
        # An array has no names, and the first frame may come after it.
        of_each = zip(*known, strict=True)
        first = FrameNames(*(next((x for x in xs if x is not None), None) for xs in of_each))
        own.check(first, "process")


def _columns(frame: Any) -> list[str] | None:
    labels = labels_of(frame).columns
    return None if labels is None else [str(x) for x in labels]


def _check_columns(
    name: str, own: Sequence[str] | None, first: Sequence[str] | None, part: str
) -> None:
    # The number of columns is checked elsewhere.
    if own is None or first is None or len(own) != len(first):
        return
    for ours, theirs in zip(own, first, strict=True):
        if ours != theirs:
            raise ValueError(
                f"{name} must have the same columns in the same order in every {part}, got "
                f"{ours!r} where the first {part} has {theirs!r}: take {name}[columns] with one "
                "list of columns"
            )


def _listing(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(map(repr, names[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
