"""A sparse table, of which a tile at a time is made dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.frames import EntryError
from pyro_expfam.deq.observations import Observations, check_any_entry, entries_of_table
from pyro_expfam.deq.sparse_rows import SparseRows, dense_tiles
from pyro_expfam.families import Family
from pyro_expfam.joint.table import Table


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
    ) -> None:
        check_family(family)
        self._rows, self._begin = SparseRows(y), 0
        shape = torch.Size(self._rows.shape)
        self._entries = entries_of_table(family, shape, like, offset, mask, weights)
        for entries in self._entries[1:]:
            check_any_entry(entries)
        self._covariates = as_covariates(covariates, num_covariates, shape[0], like)
        try:
            super().__init__(family, num_features, like, num_covariates)
        except EntryError as error:
            raise error.of_rows_from(self._begin) from None

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        begin = 0
        arguments = (self.family, self._rows, self.num_features, self.like)
        for tile in dense_tiles(*arguments, *self._entries, self._covariates):
            self._begin = begin
            yield begin, Observations(*tile)
            begin += len(tile[0])
