"""Observations of several laws side by side, as functions of their linear predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_expfam.families.entries import Entries
from pyro_expfam.families.kinds import At, take

Join = Callable[[Sequence[Tensor]], Tensor]
"""What joins entries of several laws."""


class ColumnsEntries:
    """Entries of several laws.

    Args:
        join: puts entries of the linear predictors of each law in the order of the table.
        parts: the entries of each law, with the places of their linear predictors.
        y: all observations in the shape of their linear predictors, ``(..., N, d)``.
    """

    predictors_per_column = 1

    def __init__(self, join: Join, parts: list[tuple[At, Entries]], y: Tensor) -> None:
        self._join, self._parts, self._y = join, parts, y
        self.differs_by_row = any(part.differs_by_row for _, part in parts)

    @property
    def statistic(self) -> Tensor:
        """The factors of the linear parts, zero where a law has none."""
        statistics = [(at, part.statistic) for at, part in self._parts]
        return self._join(
            [torch.zeros_like(take(self._y, at)) if x is None else x for at, x in statistics]
        )

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows, as far as their functions are concerned."""
        if not self.differs_by_row:
            return self
        parts = [(at, part.rows(index)) for at, part in self._parts]
        return ColumnsEntries(self._join, parts, self._y)

    def mean(self, eta: Tensor) -> Tensor:
        """The derivatives of the nonlinear parts."""
        return self._join([part.mean(take(eta, at)) for at, part in self._parts])

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The first two derivatives of the nonlinear parts."""
        found = [
            part.mean_and_variance_in_place(take(eta, at), take(scratch, at))
            for at, part in self._parts
        ]
        mean, variance = (self._join(x) for x in zip(*found, strict=True))
        return mean, variance

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nonlinear parts, and their first two derivatives."""
        found = [
            part.first_cumulants_in_place(take(eta, at), take(scratch, at))
            for at, part in self._parts
        ]
        value, mean, variance = (self._join(x) for x in zip(*found, strict=True))
        return value, mean, variance
