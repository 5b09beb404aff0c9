"""Tables on disk, of which some rows at a time are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.sparse_rows import is_sparse

ENTRIES_READ = 1 << 22
"""Entries of the rows that are read at once."""

RUNS = 8
"""Runs of adjacent rows in a sample, since slices of a table on disk are quicker than rows."""


def is_backed(table: Any) -> bool:
    """Whether a table is on disk, as the tables of AnnData in backed mode."""
    return not (isinstance(table, np.ndarray | Tensor) or is_sparse(table)) and hasattr(
        table, "shape"
    )


class BackedTable:
    """Rows of a table on disk, dense and some at a time, which can be read again and again.

    A pass yields batches as ``guide.fit`` takes them.

    Args:
        rows: the table, an array of h5py or Zarr, or a sparse dataset of AnnData.
        name: the table, for errors.

    Attributes:
        num_rows: rows ``N``.
        num_columns: columns ``d``.
        offset: the offset of the batches, ``(N, 1)``, or None.
        covariates: the covariates of the batches, ``(N, p)``, or None.

    Raises:
        ValueError: if a sparse table is stored by columns.
    """

    def __init__(self, rows: Any, name: str) -> None:
        if getattr(rows, "format", "csr") != "csr":
            raise ValueError(
                f"{name} must be stored by rows to be read some rows at a time, got a "
                f"{rows.format.upper()} matrix: write it as CSR, or read it by adata.to_memory()"
            )
        self._rows = rows
        self.num_rows, self.num_columns = int(rows.shape[0]), int(rows.shape[1])
        self.offset: np.ndarray | None = None
        self.covariates: np.ndarray | None = None

    @property
    def slices(self) -> list[slice]:
        """The rows of each batch."""
        size = max(1, ENTRIES_READ // self.num_columns)
        begins = range(0, self.num_rows, size)
        return [slice(begin, min(begin + size, self.num_rows)) for begin in begins]

    def read(self, rows: slice) -> np.ndarray:
        """Some of the rows, ``(n, d)``."""
        group = getattr(self._rows, "group", None)
        found = np.asarray(self._rows[rows]) if group is None else self._stored(group, rows)
        return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)

    def _stored(self, group: Any, rows: slice) -> np.ndarray:
        """Rows of a sparse table, from the arrays that its format on disk consists of."""
        begins = np.asarray(group["indptr"][rows.start : rows.stop + 1])
        stored = slice(int(begins[0]), int(begins[-1]))
        values = np.asarray(group["data"][stored])
        found = np.zeros((rows.stop - rows.start, self.num_columns), values.dtype)
        row = np.repeat(np.arange(len(found)), np.diff(begins))
        np.add.at(found, (row, np.asarray(group["indices"][stored])), values)
        return found

    def some(self) -> tuple[np.ndarray, np.ndarray]:
        """Evenly spaced runs of rows, no more than are read at once, and their numbers."""
        count = min(self.num_rows, max(2, ENTRIES_READ // self.num_columns))
        size = max(1, count // RUNS)
        begins = np.unique(np.linspace(0, self.num_rows - size, count // size).astype(np.int64))
        numbers = np.unique(np.concatenate([np.arange(x, x + size) for x in begins]))
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
        parts = [self.read(slice(int(run[0]), int(run[-1]) + 1)) for run in runs]
        return np.concatenate(parts), numbers

    def sum(self, axis: int) -> np.ndarray:
        """The sums of the rows, ``(N,)``."""
        return np.concatenate([self.read(rows).sum(axis) for rows in self.slices])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in self.slices:
            y = torch.as_tensor(self.read(rows))
            batch = {"y": y}
            for name in ("offset", "covariates"):
                if (known := getattr(self, name)) is not None:
                    batch[name] = torch.as_tensor(known[rows])
            present = ~y.isnan()
            if not bool(present.all()):
                batch["mask"] = present
            yield batch
