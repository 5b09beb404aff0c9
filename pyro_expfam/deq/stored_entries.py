"""The entries that a sparse table stores, with the sums over them that fits need."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pyro_expfam.families import ExponentialFamily, Family


@dataclass(frozen=True, eq=False)
class StoredEntries:
    r"""The stored entries of some rows of a sparse table of a canonical family, row by row.

    The family has :math:`T(y) = y` and :math:`h(0) = 1`. An entry that is not stored then has the
    log density :math:`-A(\eta)`, and enters products with the sufficient statistics nowhere.

    Attributes:
        row: the row of each entry, ``(n,)``, never falling.
        column: its column, ``(n,)``.
        y: the observation, ``(n,)``.
        weights: its weight, ``(n,)``, or None for 1.
        num_rows: the number of rows ``N``.
    """

    row: Tensor
    column: Tensor
    y: Tensor
    weights: Tensor | None
    num_rows: int

    @property
    def statistic(self) -> Tensor:
        """The weighted sufficient statistics, ``(n,)``."""
        return self.weighted(self.y)

    def weighted(self, entries: Tensor) -> Tensor:
        """Numbers per stored entry times the weights."""
        return entries if self.weights is None else entries * self.weights

    def times(self, loading: Tensor) -> Tensor:
        """The weighted sufficient statistics times a matrix ``(d, l)``, ``(N, l)``."""
        first = torch.searchsorted(self.row, torch.arange(self.num_rows, device=self.row.device))
        return embedding_bag(
            self.column, loading.contiguous(), first, mode="sum", per_sample_weights=self.statistic
        )

    def transposed_times(self, z: Tensor, num_columns: int) -> Tensor:
        """Their transpose times a matrix ``(N, l)``, ``(d, l)``."""
        zero = z.new_zeros(num_columns, z.shape[1])
        return zero.index_add_(0, self.column, z[self.row] * self.statistic[:, None])

    def at(self, eta: Tensor) -> Tensor:
        """The linear predictors ``(N, d)`` of the stored entries, ``(n,)``."""
        return eta[self.row, self.column]

    def by_row(self, entries: Tensor) -> Tensor:
        """Sums over the stored entries of each row, ``(N,)``."""
        return entries.new_zeros(self.num_rows).index_add_(0, self.row, entries)

    def rows(self, index: slice) -> StoredEntries:
        """The stored entries of some adjacent rows."""
        begin, end, _ = index.indices(self.num_rows)
        if (begin, end) == (0, self.num_rows):
            return self
        first, last = torch.searchsorted(self.row, torch.tensor([begin, end])).tolist()
        return StoredEntries(
            self.row[first:last] - begin,
            self.column[first:last],
            self.y[first:last],
            None if self.weights is None else self.weights[first:last],
            end - begin,
        )

    def double(self) -> StoredEntries:
        """The same entries in double precision."""
        weights = None if self.weights is None else self.weights.double()
        return replace(self, y=self.y.double(), weights=weights)


def leaves_out_zeros(family: Family) -> bool:
    """Whether the log density of a zero is minus the log-partition, for every row and column."""
    if not isinstance(family, ExponentialFamily) or family.num_columns is not None:
        return False
    if family.has_levels or any(x.numel() > 1 for x in family.parameters.values()):
        return False
    if type(family).sufficient_statistic is not ExponentialFamily.sufficient_statistic:
        return False
    zero = torch.zeros(1, dtype=torch.float64)
    return bool(family.support.check(zero).all()) and not float(family.log_base_measure(zero))
