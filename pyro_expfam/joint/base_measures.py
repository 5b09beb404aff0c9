"""The sum of the log base measures of a table under changing parameters of its family."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.families import Family
from pyro_expfam.joint.table import Sums, Table, TableRows

GATHERED_BELOW = 1 << 20
"""Counts below this are gathered."""

FEW = 64
"""Counts below this are gathered in an array, and larger ones by sorting."""

LARGEST_PART = 0.5
"""Counts are gathered if the distinct ones of all columns are at most this part of the entries."""


class BaseMeasures:
    """The weighted sum of ``log h(y)`` over a table, as a function of the family.

    Counts repeat. They are gathered by column and value when the sum is first wanted, and sums go
    over the distinct ones alone. Other observations are read anew for every sum.

    Args:
        table: the table.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._gathered: _Gathered | None = None
        family = table.family
        is_one_law = family.num_columns is None
        self._repeats = is_one_law and family.support.is_discrete and not family.differs_by_row

    def total(self, family: Family) -> float:
        """The sum under a family with the same support."""
        return float(self.totals(family))

    def totals(self, family: Family) -> Tensor:
        """The sum, ``()``, or a sum per start under parameters ``(S, 1, d)``, ``(S,)``."""
        if self._repeats and self._gathered is None:
            self._gathered = _gather(self._table)
            self._repeats = self._gathered is not None
        gathered = self._gathered
        own = self._of_each(family) if gathered is None else gathered.totals(family)
        return self._table.processes.sum((own,))[0]

    def _of_each(self, family: Family) -> Tensor:
        """The sums over the rows of this process, read anew."""

        def of_rows(place: slice, rows: TableRows) -> Sums:
            del place
            entries = family.log_base_measure(rows.y.double())
            if rows.weights is not None:
                entries = entries * rows.weights
            return (entries.sum((-2, -1)),)

        table = self._table
        none = table.like.new_zeros(0, table.num_features, dtype=torch.float64)
        return (table.own_sum(of_rows) or (family.log_base_measure(none).sum((-2, -1)),))[0]


class _Gathered:
    """The distinct counts of every column with their weights, ``(n,)`` each."""

    def __init__(self, column: Tensor, value: Tensor, weight: Tensor, num_features: int) -> None:
        self._column, self._value, self._weight = column, value, weight
        self._num_features = num_features

    def totals(self, family: Family) -> Tensor:
        """The weighted sums of log base measures, ``()`` or one per start, ``(S,)``."""
        parameters = {
            name: x.double().expand(*x.shape[:-1], self._num_features)[..., self._column]
            for name, x in family.parameters.items()
        }
        entries = family.with_parameters(parameters).log_base_measure(self._value)
        sums = (entries * self._weight).sum(-1)
        return sums.flatten() if sums.dim() else sums


def _gather(table: Table) -> _Gathered | None:
    """The distinct counts of the rows of this process; None if there are many, or large ones."""
    width = table.num_features
    columns = torch.arange(width, device=table.like.device)
    few = torch.zeros(width * FEW, dtype=torch.float64, device=table.like.device)
    keys, weights = [], []
    entries = 0
    for _, rows in table.tiles():
        if bool((rows.y < 0).any() | (rows.y >= GATHERED_BELOW).any()):
            return None
        weight = torch.ones_like(rows.y) if rows.weights is None else rows.weights
        weight = weight.expand(rows.y.shape).double()
        key, is_few = rows.y.long(), rows.y < FEW
        few += torch.bincount(
            torch.add(key.clamp(max=FEW - 1), columns * FEW).flatten(),
            (weight * is_few).flatten(),
            minlength=len(few),
        )
        keys.append(torch.add(key, columns * GATHERED_BELOW)[~is_few])
        weights.append(weight[~is_few])
        entries += rows.y.numel()
    if not keys:
        return None
    distinct, place = torch.unique(torch.cat(keys), return_inverse=True)
    many = torch.zeros(len(distinct), dtype=torch.float64, device=distinct.device)
    many.index_add_(0, place, torch.cat(weights))
    there = few.nonzero().flatten()
    column = torch.cat([there // FEW, distinct // GATHERED_BELOW])
    value = torch.cat([there % FEW, distinct % GATHERED_BELOW]).double()
    if len(column) > LARGEST_PART * entries:
        return None
    return _Gathered(column, value, torch.cat([few[there], many]), width)
