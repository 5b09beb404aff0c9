"""A table to fit, in memory or in batches, which is read one tile of rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.observations import (
    Observations,
    check_dtype,
    check_parameters,
    check_values,
    encoded,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.stored_entries import StoredEntries
from pyro_expfam.families import Family


@dataclass(frozen=True, eq=False)
class TableRows:
    """Some rows of a table, as a joint fit sees them.

    Attributes:
        family: the law of these observations.
        y: observations in the shape of their linear predictors, ``(n, d)``.
        offset: known part of the natural parameters, broadcastable to ``(n, d)``, or None.
        weights: entry weights, 0 for a missing entry, broadcastable to ``(n, d)``, or None.
        stored: what a sparse table stores of these rows, or None.
    """

    family: Family
    y: Tensor
    offset: Tensor | None
    weights: Tensor | None
    stored: StoredEntries | None = None

    def problem(self, coefficients: Tensor, precision: Tensor) -> LatentProblem:
        """The problem of the latents, given coefficients ``(d, l + 1)``."""
        return LatentProblem(
            self.family,
            self.y,
            Dense(coefficients[:, :-1]),
            coefficients[:, -1],
            precision,
            self.offset,
            self.weights,
            stored=self.stored,
        )


Sums = tuple[Tensor, ...]
"""Sums over rows."""


class Table(ABC):
    """Checked rows of observations, which can be iterated over again and again.

    A fit reads a table one tile of rows at a time, so that nothing of the size of the table is
    computed from it.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit.

    Attributes:
        num_rows: rows ``N``.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape or value does not fit; the message names the argument.
    """

    def __init__(self, family: Family, num_features: int, like: Tensor) -> None:
        check_family(family)
        check_dtype(like)
        self.family = family
        self.num_features = num_features
        self.like = like.detach()
        self.num_rows = 0
        self._log_base_measure: float | None = None
        self._check_rows()
        check_parameters(self.family, self.num_rows, num_features)

    def _check_rows(self) -> None:
        """Counts the rows, and raises an error unless their entries are possible."""
        for begin, observed in self._batches():
            end = begin + len(observed.y)
            family = self.family.rows(slice(begin, end))
            check_parameters(family, *observed.y.shape)
            check_values(family, observed, self.like)
            self._look_at(begin, observed)
            self.num_rows = end

    @property
    def log_base_measure(self) -> float:
        """The weighted sum of ``log h(y)`` over the entries, from a pass when it is wanted."""
        if self._log_base_measure is None:
            parts = [self._log_base_measure_of(*batch) for batch in self._batches()]
            self._log_base_measure = sum(parts)
        return self._log_base_measure

    def _look_at(self, begin: int, observed: Observations) -> None:
        """Called with every batch of the first pass, and the number of its first row."""
        del begin, observed

    def _log_base_measure_of(self, begin: int, observed: Observations) -> float:
        """The sum of ``log h(y)`` over the entries of a batch."""
        total = 0.0
        for tile in self._tiles_of(observed):
            family = self.family.rows(slice(begin + tile.start, begin + tile.stop))
            # In single precision the sum over large counts would be off by whole nats.
            part = encoded(family, observed.rows(tile).to(self.like.double()).filled(family))
            total += _log_base_measure(family, part)
        return total

    @property
    def absent_columns(self) -> list[int]:
        """Columns without any entry, as far as a table in memory tells."""
        return []

    @property
    def num_predictors(self) -> int:
        """Linear predictors per row."""
        return self.family.num_predictors(self.num_features)

    @abstractmethod
    def _batches(self) -> Iterator[tuple[int, Observations]]:
        """The rows in order, in batches, each with the number of its first row."""

    def tiles(self) -> Iterator[tuple[slice, TableRows]]:
        """All rows in order, one tile at a time."""
        for begin, observed in self._batches():
            for tile in self._tiles_of(observed):
                rows = slice(begin + tile.start, begin + tile.stop)
                family = self.family.rows(rows)
                part = encoded(family, observed.rows(tile).to(self.like).filled(family))
                yield rows, TableRows(family, part.y, part.offset, part.entry_weights)

    def sum(self, of: Callable[[slice, TableRows], Sums]) -> Sums:
        """The sums over all rows of what a function computes from some of them.

        Every fit reduces its table by this function alone.

        Args:
            of: returns new tensors, given the numbers of some rows and the rows.
        """
        totals: Sums = ()
        for place, rows in self.tiles():
            found = of(place, rows)
            for total, part in zip(totals, found, strict=bool(totals)):
                total += part
            totals = totals or found
        return totals

    def under(self, family: Family, log_base_measure: float) -> Table:
        """The same observations under another family of the same support.

        Args:
            family: the other family.
            log_base_measure: the sum of its ``log h(y)``.
        """
        other = copy(self)
        other.family, other._log_base_measure = family, log_base_measure
        return other

    def double(self) -> Table:
        """The same observations in double precision."""
        other = copy(self)
        other.like = self.like.double()
        return other

    def _tiles_of(self, observed: Observations) -> Iterator[slice]:
        return tiles(len(observed.y), self.num_predictors, self.like.device)


def _log_base_measure(family: Family, observed: Observations) -> float:
    entries = family.log_base_measure(observed.y)
    weights = observed.entry_weights
    if weights is not None:
        entries = entries * weights
    return float(entries.sum(dtype=torch.float64))
