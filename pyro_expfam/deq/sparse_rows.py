"""Sparse tables, of which some rows at a time are made dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.observations import entries_of_table
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.families import Family

SPARSE_LAYOUTS = (torch.sparse_csr, torch.sparse_csc, torch.sparse_coo)

EXACT = 1 << 24
"""Single precision holds whole numbers below this."""


def is_sparse(y: Any) -> bool:
    """Whether a table is a sparse matrix of SciPy or a sparse tensor."""
    if isinstance(y, Tensor):
        return y.layout in SPARSE_LAYOUTS
    return hasattr(y, "tocsr") and hasattr(y, "nnz")


class SparseRows:
    """The rows of a sparse table. An entry that is not stored is zero.

    Args:
        y: a sparse matrix of SciPy or a sparse tensor of PyTorch, ``(N, d)``.
        mask: booleans that broadcast to ``(N, d)``, with two dimensions, or None. A stored entry
            where it is False is not read.

    Raises:
        TypeError: if it holds no real numbers.
        ValueError: if it is no matrix, has no rows, or has stored a NaN or an infinite number.

    Example:
        >>> import torch
        >>> rows = SparseRows(torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]).to_sparse_csr())
        >>> rows.dense(slice(1, 3))
        tensor([[0., 0.],
                [1., 0.]])
    """

    def __init__(self, y: Any, mask: Tensor | None = None) -> None:
        self.shape = shape_of(y)
        self._begins, self._columns, self._values = _by_rows(y)
        if self._values.is_complex():
            raise TypeError(f"y must hold real numbers, got dtype {self._values.dtype}")
        if mask is not None:
            self._leave_out(mask.cpu())
        self._check_finite()

    def _leave_out(self, mask: Tensor) -> None:
        """Drops the stored entries that a mask hides."""
        row = self._rows(0, self.shape[0])
        present = mask.expand(self.shape)[row, self._columns]
        if bool(present.all()):
            return
        counts = torch.bincount(row[present], minlength=self.shape[0])
        self._begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._columns, self._values = self._columns[present], self._values[present]

    def _rows(self, begin: int, end: int) -> Tensor:
        """The rows of the stored entries of some rows, counted from the first of them."""
        return torch.arange(end - begin).repeat_interleave(self._begins[begin : end + 1].diff())

    def _check_finite(self) -> None:
        if not self._values.is_floating_point():
            return
        bad = (~self._values.isfinite()).nonzero()
        if len(bad):
            place = int(bad[0])
            row = int(torch.searchsorted(self._begins, place, right=True)) - 1
            raise ValueError(
                f"y must store finite numbers, got {float(self._values[place]):g} at position "
                f"{(row, int(self._columns[place]))}: pass mask= to mark missing entries"
            )

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that is stored: where rows begin, columns and values."""
        return self._begins, self._columns, self._values

    @property
    def values(self) -> Tensor:
        """The stored values, row by row."""
        return self._values

    @property
    def columns(self) -> Tensor:
        """The column of each stored value."""
        return self._columns

    def stored(self, index: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, counted from the first, columns and values of what some of the rows store."""
        begin, end, _ = index.indices(self.shape[0])
        first, last = int(self._begins[begin]), int(self._begins[end])
        columns = self._columns[first:last].long()
        return self._rows(begin, end), columns, self._values[first:last]

    def dense(self, index: slice) -> Tensor:
        """Some of the rows as a dense tensor, ``(n, d)``."""
        begin, end, _ = index.indices(self.shape[0])
        row, column, values = self.stored(index)
        found = torch.zeros(end - begin, self.shape[1], dtype=values.dtype)
        found[row, column] = values
        return found


def shape_of(y: Any) -> tuple[int, int]:
    """The rows and columns of a sparse table."""
    if len(y.shape) != 2:
        raise ValueError(f"y must have shape (rows, columns), got {tuple(y.shape)}")
    if y.shape[0] == 0:
        raise ValueError(f"y must have at least one row, got shape {tuple(y.shape)}")
    return int(y.shape[0]), int(y.shape[1])


def _by_rows(y: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows begin, ``(N + 1,)``, and the columns and values of the stored entries."""
    if isinstance(y, Tensor):
        if y.layout == torch.sparse_coo:
            y = y.coalesce()
        if y.layout != torch.sparse_csr:
            y = y.to_sparse_csr()
        y = y.detach().cpu()
        return y.crow_indices().long(), y.col_indices(), y.values()
    rows = y.tocsr()
    if not rows.has_canonical_format:
        # Entries of one place add up. The user's matrix stays as it is.
        rows = rows.copy()
        rows.sum_duplicates()
    if rows.data.dtype.kind not in "biuf":
        raise TypeError(f"y must hold real numbers, got a sparse array of dtype {rows.data.dtype}")
    values = rows.data
    if values.dtype.kind != "f":
        is_exact = not values.size or abs(values).max() < EXACT
        values = values.astype(np.float32 if is_exact else np.float64)
    return tuple(
        torch.as_tensor(np.require(x, requirements="W"))
        for x in (rows.indptr.astype(np.int64), rows.indices, values)
    )  # type: ignore[return-value]


def checked_rows(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> tuple[SparseRows, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """The rows of a sparse table, with offset, mask and weights that broadcast to it.

    Args:
        family: the law of the observations.
        y: the sparse table.
        num_features: the number of columns wanted.
        like: a tensor of the dtype and device of the model.
        offset: broadcastable to the linear predictors.
        mask: broadcastable to ``y``.
        weights: broadcastable to ``y``.

    Raises:
        ValueError: if a shape does not fit, or a stored entry that is not masked is not finite.
    """
    shape = shape_of(y)
    if shape[1] != num_features:
        raise ValueError(
            f"y must have shape (rows, {num_features}), one column for each feature, got {shape}"
        )
    entries = entries_of_table(family, torch.Size(shape), like, offset, mask, weights)
    for x in entries:
        if x is not None and x.dim() > 2:
            raise ValueError(f"a sparse y has no batch dimensions, got entries of {tuple(x.shape)}")
    return SparseRows(y, entries[1]), entries


def dense_tiles(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Tensor | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Rows of a sparse table, made dense a tile at a time, with offset, mask and weights of them.

    Args:
        family: the law of the observations.
        y: the sparse table.
        num_features: the number of columns wanted.
        like: a tensor of the dtype and device of the model.
        offset: broadcastable to the linear predictors.
        mask: broadcastable to ``y``.
        weights: broadcastable to ``y``.
        covariates: checked covariates, ``(N, p)``.

    Raises:
        ValueError: if a shape does not fit.
    """
    rows, entries = checked_rows(family, y, num_features, like, offset, mask, weights)
    yield from tiles_of(rows, (*entries, covariates), family.num_predictors(num_features), like)


def tiles_of(
    rows: SparseRows, entries: tuple[Tensor | None, ...], width: int, like: Tensor
) -> Iterator[tuple[Any, ...]]:
    """Checked rows, made dense a tile at a time on the device of ``like``, with their entries.

    Args:
        rows: the rows.
        entries: what belongs to the rows, with one row for all or a row for each, or None.
        width: linear predictors of a row.
        like: a tensor of the device wanted.
    """
    for tile in tiles(rows.shape[0], width, like.device):
        parts = [x if x is None or len(x) == 1 else x[tile] for x in entries]
        yield rows.dense(tile).to(like.device), *parts
