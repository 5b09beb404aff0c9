"""A table on disk as batches of rows, the same in every pass, each process with a part."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pyro_expfam.tables.read_ahead import read_ahead
from pyro_expfam.tables.sources import RowSource

BATCH_BYTES = 1 << 25
"""Bytes of a batch, roughly."""

MOST_ROWS = 1 << 18
"""The most rows of a batch, unless the store keeps more of them together."""


class TableOnDisk:
    """The rows of a table on disk, in batches, as ``guide.fit`` takes them.

    :func:`zarr`, :func:`h5ad`, :func:`parquet` and :func:`memmap` make it. A thread reads the next
    batch while the fit computes with the last one. In a fit by several processes each reads a part
    of its own.

    Attributes:
        num_rows: rows of this table, or of this part.
        rows_at_once: rows of a batch.
        is_part: whether these are the rows of one of several processes.
        column_names: the names of the columns of ``y``, where the batches are no frames and do not
            say them; else None.
    """

    def __init__(
        self,
        sources: Mapping[str, RowSource],
        constants: Mapping[str, Any],
        rows_at_once: int | None = None,
        column_names: Sequence[str] | None = None,
    ) -> None:
        lengths = {name: source.num_rows for name, source in sources.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays of a table must have as many rows as y, got rows {lengths}")
        self._sources, self._constants = dict(sources), dict(constants)
        self._begin, self._end = 0, lengths["y"]
        self.rows_at_once = self._rows_at_once(rows_at_once)
        self.is_part, self.column_names = False, column_names

    @property
    def num_rows(self) -> int:
        """Rows of this table, or of this part."""
        return self._end - self._begin

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches, as arguments of a block by name."""
        return read_ahead(self._batches())

    def part(self, number: int, count: int) -> Self:
        """The rows of one of several processes: as many batches as the others have, in order.

        Args:
            number: the number of the process.
            count: how many processes there are.
        """
        if not 0 <= number < count:
            raise ValueError(f"number must be between 0 and {count - 1}, got {number}")
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        batches = -(-self.num_rows // self.rows_at_once)
        if batches < 4 * count:
            # Too few batches to share evenly: cut them.
            begin, end = (self.num_rows * k // count for k in (number, number + 1))
        else:
            begin, end = (
                min(self.num_rows, batches * k // count * self.rows_at_once)
                for k in (number, number + 1)
            )
        other._begin, other._end = self._begin + begin, self._begin + end
        other.is_part = True
        return other

    def __repr__(self) -> str:
        """A short form."""
        names = ", ".join(self._sources)
        return f"TableOnDisk({names}, num_rows={self.num_rows}, rows_at_once={self.rows_at_once})"

    def _batches(self) -> Iterator[dict[str, Any]]:
        for begin in range(self._begin, self._end, self.rows_at_once):
            rows = slice(begin, min(begin + self.rows_at_once, self._end))
            read = {name: source.read(rows) for name, source in self._sources.items()}
            yield {**read, **self._constants}

    def _rows_at_once(self, wanted: int | None) -> int:
        if wanted is not None:
            try:
                found = 0 if isinstance(wanted, bool) else operator.index(wanted)
            except TypeError:
                found = 0
            if found < 1:
                raise ValueError(
                    f"rows_at_once must be a whole number of at least 1, got {wanted!r}"
                )
            return found
        row_bytes = sum(source.row_bytes for source in self._sources.values())
        rows = max(1, min(MOST_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))
        chunk = max(source.chunk_rows for source in self._sources.values())
        # A chunk that lies in two batches would be read twice.
        return max(chunk, rows // chunk * chunk)
