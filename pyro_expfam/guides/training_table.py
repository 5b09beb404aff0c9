"""Which table the parameters of a guide were trained on, as far as that shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.joint import Table, TableInMemory
from pyro_expfam.joint.table import Rows

SAME = 1e-4
"""The relative difference of sums of the same numbers, in another order or format."""


class TrainingTable(NamedTuple):
    """What is kept of a table that a guide was trained on: enough to know another when it comes.

    Attributes:
        num_rows: rows of the whole table.
        sums: a sum over the rows of each column, ``(d,)``, or None where they were never all there.
    """

    num_rows: int
    sums: Tensor | None = None

    @classmethod
    def of_fit(cls, table: Table) -> TrainingTable:
        """Of a table that was fitted. One in batches is not gone through once more."""
        if not isinstance(table, TableInMemory):
            return cls(table.num_rows)
        return cls(table.num_rows, _sums(rows for _, rows in table.tiles()))

    @classmethod
    def of_step(
        cls,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_rows: int | None = None,
        rows: Any = None,
    ) -> TrainingTable:
        """Of the arguments of a block in a training step, which may hold a part of the table."""
        del offset, mask, weights, rows
        # While a program is traced, sizes are tensors.
        return cls(int(np.shape(y)[-2]) if num_rows is None else num_rows)

    def differs_from(self, problem: LatentProblem) -> bool:
        """Whether the table of a problem is surely another one."""
        if self.num_rows != problem.num_rows:
            return True
        if self.sums is None:
            return False
        sums = _sums(problem.rows(tile) for tile in row_tiles(problem))
        return not torch.allclose(sums, self.sums, rtol=SAME, atol=0.0)


@torch.no_grad()
def _sums(parts: Iterable[Rows | LatentProblem]) -> Tensor:
    """Sums over rows that tell tables apart, also those whose columns are standardised."""
    total: Any = 0.0
    for part in parts:
        entries = part.statistic.abs()
        if part.weights is not None:
            entries = entries * part.weights
        total = total + entries.sum(0).double()
    sums: Tensor = total.cpu()
    return sums
