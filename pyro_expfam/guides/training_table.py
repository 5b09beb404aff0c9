"""A record of the table that the parameters of a guide were trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.joint import Table, TableInMemory
from pyro_expfam.joint.table import TableRows

SAME = 1e-4
"""Sums of the same numbers in another order or format differ by less than this part."""


class TrainingTable(NamedTuple):
    """What is kept of a table that a guide was trained on: enough to recognise another table.

    Attributes:
        num_rows: rows of the whole table.
        sums: a sum over the rows of each column, ``(d,)``, or None if the rows came in batches,
            or are of several processes.
    """

    num_rows: int
    sums: Tensor | None = None

    @classmethod
    def of_fit(cls, table: Table) -> TrainingTable:
        """The record of a fitted table. A table in batches is not read once more."""
        if not isinstance(table, TableInMemory) or table.processes.count > 1:
            return cls(table.num_rows)
        return cls(table.num_rows, _sums(rows for _, rows in table.tiles()))

    @classmethod
    def of_step(
        cls,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_rows: int | None = None,
        rows: Any = None,
        latent_loc: Any = None,
    ) -> TrainingTable:
        """The record of a training step, from the arguments of the block."""
        del offset, mask, weights, covariates, rows, latent_loc
        # While a program is traced, sizes are tensors.
        return cls(int(np.shape(y)[-2]) if num_rows is None else num_rows)

    def differs_from(self, problem: LatentProblem) -> bool:
        """Whether the table of a problem is certainly another one."""
        if self.num_rows != problem.num_rows:
            return True
        if self.sums is None:
            return False
        sums = _sums(problem.rows(tile) for tile in row_tiles(problem))
        return not torch.allclose(sums, self.sums, rtol=SAME, atol=0.0)


@torch.no_grad()
def _sums(parts: Iterable[TableRows | LatentProblem]) -> Tensor:
    """Sums over rows that tell tables apart, also tables with standardised columns."""
    total: Any = 0.0
    for part in parts:
        entries = part.y.abs()
        if part.weights is not None:
            entries = entries * part.weights
        total = total + entries.sum(0).double()
    sums: Tensor = total.cpu()
    return sums
