"""A sparse table, of which products use the stored entries and a tile at a time is made dense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.frames import EntryError
from pyro_expfam.deq.observations import Observations, absent_columns, check_any_entry, is_valid
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.sparse_rows import checked_rows
from pyro_expfam.deq.stored_entries import StoredEntries, leaves_out_zeros
from pyro_expfam.families import Family
from pyro_expfam.joint.table import Table, TableRows, gram_of, has_all_entries


class SparseTable(Table):
    """A sparse table in memory. It is never dense as a whole.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit.
        y: a sparse matrix of SciPy or a sparse tensor, ``(N, d)``. An entry that is not stored is
            an observation of zero.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, num_covariates)``.
        num_covariates: covariates of a row.
        processes: the processes that hold the rows, each of them a table of its own.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape or value does not fit, or a stored entry is not finite.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((100, 6), 0.2)).to_sparse_csr()
        >>> pef.joint.SparseTable(pef.families.Poisson(), 6, torch.zeros(()), y).num_rows
        100
    """

    def __init__(
        self,
        family: Family,
        num_features: int,
        like: Tensor,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        *,
        num_covariates: int = 0,
        processes: Processes = ONE,
    ) -> None:
        check_family(family)
        self._rows, self._entries = checked_rows(
            family, y, num_features, like, offset, mask, weights
        )
        if processes.count == 1:
            for entries in self._entries[1:]:
                check_any_entry(entries)
        num_rows = self._rows.shape[0]
        self._covariates = as_covariates(covariates, num_covariates, num_rows, like)
        self._begin = 0
        try:
            super().__init__(family, num_features, like, num_covariates, processes)
        except EntryError as error:
            raise error.of_rows_from(self._begin) from None

    def _check_rows(self) -> None:
        # The dense rows are looked at where an error has to say what is wrong with them.
        if leaves_out_zeros(self.family) and self._is_stored_well():
            self.num_own_rows = self._rows.shape[0]
            self.gram += gram_of(self._covariates, self.num_own_rows).to(self.gram)
            self.is_complete = has_all_entries(*self._entries[1:])
        else:
            super()._check_rows()

    def _is_stored_well(self) -> bool:
        """Whether stored entries are in the support, where zero is, and all else is valid."""
        if not bool(self.family.support.check(self._rows.values.to(self.like)).all()):
            return False
        offset, mask, weights = self._entries
        shapes = [x.shape for x in self._entries if x is not None]
        zeros = self.like.new_zeros(torch.broadcast_shapes((1, 1), *shapes))
        return is_valid(self.family, Observations(zeros, offset, mask, weights).to(self.like))

    @property
    def absent_columns(self) -> list[int]:
        """Columns that mask and weights leave no entry of."""
        return absent_columns(*self._entries[1:])

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        for tile in tiles(self._rows.shape[0], self.num_predictors, self.like.device):
            self._begin = tile.start
            every = (*self._entries, self._covariates)
            entries = (x if x is None or len(x) == 1 else x[tile] for x in every)
            yield tile.start, Observations(self._rows.dense(tile).to(self.like.device), *entries)

    def tiles(self, at_once: int = 1) -> Iterator[tuple[slice, TableRows]]:
        """All rows in order, with what is stored of them, one tile of dense rows at a time."""
        if not leaves_out_zeros(self.family):
            yield from super().tiles(at_once)
            return
        for tile, rows in super().tiles(at_once):
            yield tile, replace(rows, stored=self._stored(tile, rows.weights))

    def _own_log_base_measure(self) -> float:
        # It is 0 for zeros that are not stored.
        if not leaves_out_zeros(self.family):
            return super()._own_log_base_measure()
        weights = self._entries[2]
        everything = slice(0, self.num_own_rows)
        stored = self._stored(everything, None if weights is None else weights.to(self.like))
        stored = stored.double()
        return float(stored.weighted(self.family.log_base_measure(stored.y)).sum())

    def _stored(self, tile: slice, weights: Tensor | None) -> StoredEntries:
        """What is stored of some rows, in the dtype and on the device of the fit."""
        row, column, values = (x.to(self.like.device) for x in self._rows.stored(tile))
        size = (tile.stop - tile.start, self.num_features)
        weights = None if weights is None else weights.expand(size)[row, column]
        return StoredEntries(row, column, values.to(self.like.dtype), weights, size[0])
