"""What rows of a table are read from: arrays, compressed sparse rows, and files of columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np


class RowSource(ABC):
    """Rows that can be read a few at a time.

    Attributes:
        num_rows: how many rows there are.
        row_bytes: bytes of a row in memory, roughly.
        chunk_rows: rows that the store keeps together; others are read as quickly one by one.
    """

    num_rows: int
    row_bytes: float
    chunk_rows: int

    @abstractmethod
    def read(self, rows: slice) -> Any:
        """Some rows in memory, as a block takes them."""


class ArrayRows(RowSource):
    """The rows of anything that slices as an array: of Zarr, HDF5, a memory map, or memory.

    Args:
        array: the array, ``(N,)`` or ``(N, k)``. A vector is one column.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.num_rows = int(array.shape[0])
        width = int(np.prod(array.shape[1:]))
        self.row_bytes = width * getattr(array.dtype, "itemsize", 8)
        chunks = getattr(array, "chunks", None)
        self.chunk_rows = int(chunks[0]) if chunks else 1

    def read(self, rows: slice) -> Any:
        """Some rows."""
        found = self._array[rows]
        if isinstance(found, np.memmap):
            # Pages are read here, by the thread that reads ahead.
            found = np.array(found)
        return found[:, None] if found.ndim == 1 else found


class NamedRows(RowSource):
    """Rows whose columns have names, as frames of pandas.

    Args:
        rows: the rows of a dense array.
        names: the names of its columns.
    """

    def __init__(self, rows: RowSource, names: Sequence[Any]) -> None:
        self._rows, self._names = rows, list(names)
        self.num_rows, self.row_bytes = rows.num_rows, rows.row_bytes
        self.chunk_rows = rows.chunk_rows

    def read(self, rows: slice) -> Any:
        """Some rows."""
        from pandas import DataFrame

        return DataFrame(self._rows.read(rows), columns=self._names)


class CompressedRows(RowSource):
    """Compressed sparse rows in a store: ``data``, ``indices`` and ``indptr``.

    Args:
        group: what has these three arrays by name.
        shape: rows and columns.
    """

    def __init__(self, group: Any, shape: Sequence[int]) -> None:
        self._data, self._indices = group["data"], group["indices"]
        # Eight bytes a row stay in memory.
        self._begins = np.asarray(group["indptr"][:], dtype=np.int64)
        self.num_rows, self._width = int(shape[0]), int(shape[1])
        entry = self._data.dtype.itemsize + self._indices.dtype.itemsize
        self.row_bytes = entry * int(self._begins[-1]) / max(self.num_rows, 1)
        self.chunk_rows = 1

    def read(self, rows: slice) -> Any:
        """Some rows as a sparse matrix."""
        from scipy.sparse import csr_matrix

        begins = self._begins[rows.start : rows.stop + 1]
        places = slice(int(begins[0]), int(begins[-1]))
        arrays = (self._data[places], self._indices[places], begins - begins[0])
        return csr_matrix(arrays, shape=(rows.stop - rows.start, self._width))


class ParquetRows(RowSource):
    """Columns of a Parquet file, as frames of pandas.

    Args:
        file: the open file.
        columns: names of columns, in order.
        as_vector: whether to read numbers without their names.
    """

    def __init__(self, file: Any, columns: Sequence[str], as_vector: bool = False) -> None:
        self._file, self._columns, self._as_vector = file, list(columns), as_vector
        metadata = file.metadata
        sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes)
        self.num_rows, self.row_bytes = int(metadata.num_rows), 8.0 * len(self._columns)
        self.chunk_rows = int(sizes[0]) if sizes else 1
        self._group: tuple[int, Any] | None = None

    def read(self, rows: slice) -> Any:
        """Some rows. The last group of rows stays in memory, since the next rows may be of it."""
        import pyarrow

        parts, begin = [], rows.start
        while begin < rows.stop:
            number = int(np.searchsorted(self._ends, begin, side="right"))
            first = int(self._ends[number - 1]) if number else 0
            end = min(rows.stop, int(self._ends[number]))
            parts.append(self._of_group(number).slice(begin - first, end - begin))
            begin = end
        frame = pyarrow.concat_tables(parts).to_pandas()
        return frame.to_numpy() if self._as_vector else frame

    def _of_group(self, number: int) -> Any:
        if self._group is None or self._group[0] != number:
            self._group = number, self._file.read_row_group(number, columns=self._columns)
        return self._group[1]
