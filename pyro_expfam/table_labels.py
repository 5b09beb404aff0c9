"""Labels of the rows and columns of a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class TableLabels(NamedTuple):
    """The labels of a table.

    Attributes:
        rows: a label for each row, ``(N,)``, or None.
        columns: a label for each column, ``(d,)``, or None.
    """

    rows: np.ndarray | None
    columns: np.ndarray | None


def labels_of(y: Any) -> TableLabels:
    """The labels of the rows and columns of a data frame, or None for those it does not have.

    A frame of pandas has both, a frame of polars names its columns only, and a tensor or an array
    has neither. Labels ``0, 1, ...`` are positions and count as none. Labels that are neither
    numbers, dates nor strings become strings, and the levels of a label are joined by ``", "``.

    Example:
        >>> import pandas as pd
        >>> from pyro_expfam.table_labels import labels_of
        >>> rows, columns = labels_of(pd.DataFrame({"oak": [1, 2], "elm": [0, 3]}))
        >>> rows is None, columns.tolist()
        (True, ['oak', 'elm'])
    """
    rows, columns = axes_of(y)
    return TableLabels(_as_labels(rows), _as_labels(columns))


def axes_of(y: Any) -> tuple[Sequence[Any] | None, Sequence[Any] | None]:
    """The labels of rows and columns as the data frame has them, each None where it has none."""
    columns = axis_of(y, "columns")
    # Without columns there is no frame; a list, too, has an attribute index.
    return (None if columns is None else axis_of(y, "index")), columns


def axis_of(y: Any, name: str) -> Sequence[Any] | None:
    """The labels of the ``index`` or the ``columns`` of a frame or series, None without any."""
    if is_lazy(y):
        # It would have to be evaluated for its labels.
        return None
    axis = getattr(y, name, None)
    return axis if hasattr(axis, "__len__") and hasattr(axis, "__getitem__") else None


def is_lazy(y: Any) -> bool:
    """Whether a frame waits for its numbers, as a ``LazyFrame`` of polars does."""
    return hasattr(y, "collect_schema") and not hasattr(y, "shape")


def are_numbered(names: Sequence[Any]) -> bool:
    """Whether names are the texts ``"0", "1", ...``, as AnnData numbers what has no names."""
    return list(names) == [str(k) for k in range(len(names))]


def label_index(labels: Sequence[Any], name: str = "column") -> Any:
    """The labels of columns as the index of a frame of pandas, a label of several levels as one."""
    import pandas as pd

    return pd.Index(list(labels), name=name, tupleize_cols=False)


def _as_labels(axis: Sequence[Any] | None) -> np.ndarray | None:
    if axis is None:
        return None
    labels = list(axis)
    array = np.asarray(axis)
    if array.ndim != 1 or array.dtype.kind not in "biufMU":
        array = np.array([_as_text(label) for label in labels], dtype=np.str_)
    return None if np.array_equal(array, np.arange(len(labels))) else array


def _as_text(label: Any) -> str:
    return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
