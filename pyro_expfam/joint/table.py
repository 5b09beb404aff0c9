"""A table to fit, in memory or in batches, which is read one tile of rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq.covariates import Covariates
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
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.processes import Sums as Sums
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.stored_entries import StoredEntries
from pyro_expfam.families import Family
from pyro_expfam.joint.covariate_units import CovariateUnits
from pyro_expfam.joint.frame_names import FrameNames, check_names_in_processes

WHOLE_NUMBERS = (
    type(constraints.nonnegative_integer),
    type(constraints.boolean),
    constraints.integer_interval,
)
"""Supports of counts and bits."""

COUNTED_BELOW = 1 << 16
"""Counts below this are counted themselves for the sum of their base measures."""


@dataclass(frozen=True, eq=False)
class TableRows:
    """Some rows of a table, as a joint fit sees them.

    Attributes:
        family: the law of these observations.
        y: observations in the shape of their linear predictors, ``(n, d)``.
        offset: known part of the natural parameters, broadcastable to ``(n, d)``, or None.
        weights: entry weights, 0 for a missing entry, broadcastable to ``(n, d)``, or None.
        stored: what a sparse table stores of these rows, or None.
        covariates: known numbers of the rows, ``(n, p)``, or None.
    """

    family: Family
    y: Tensor
    offset: Tensor | None
    weights: Tensor | None
    stored: StoredEntries | None = None
    covariates: Tensor | None = None

    def known(self) -> Tensor:
        """A column of ones, and the covariates, ``(n, 1 + p)``."""
        ones = self.y.new_ones(len(self.y), 1)
        return ones if self.covariates is None else torch.cat([ones, self.covariates], 1)

    def problem(self, coefficients: Tensor, precision: Tensor) -> LatentProblem:
        """The problem of the latents, given coefficients ``(d, l + 1 + p)``."""
        parts = split_coefficients(coefficients, self.covariates)
        covariates, offset = None, self.offset
        if self.covariates is not None:
            covariates = Covariates(self.covariates, parts.of_covariates, offset)
            offset = covariates.total()
        return LatentProblem(
            self.family,
            self.y,
            Dense(parts.loading),
            parts.intercept,
            precision,
            offset,
            self.weights,
            stored=self.stored,
            covariates=covariates,
        )


class CoefficientParts(NamedTuple):
    """Coefficients of linear predictors in parts.

    Attributes:
        loading: ``(d, l)``.
        intercept: ``(d,)``.
        of_covariates: ``(d, p)``.
    """

    loading: Tensor
    intercept: Tensor
    of_covariates: Tensor


def split_coefficients(coefficients: Tensor, covariates: Tensor | int | None) -> CoefficientParts:
    """The parts of coefficients ``(d, l + 1 + p)``: loading, intercept, and covariates.

    Args:
        coefficients: the coefficients.
        covariates: the covariates ``(n, p)``, their number, or None without any.
    """
    num_covariates = 0 if covariates is None else covariates
    if isinstance(num_covariates, Tensor):
        num_covariates = num_covariates.shape[-1]
    latent_dim = coefficients.shape[1] - 1 - num_covariates
    return CoefficientParts(
        coefficients[:, :latent_dim],
        coefficients[:, latent_dim],
        coefficients[:, latent_dim + 1 :],
    )


class Table(ABC):
    """Checked rows of observations, which can be iterated over again and again.

    A fit reads a table one tile of rows at a time, so that nothing of the size of the table is
    computed from it.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit.
        num_covariates: covariates ``p`` of a row.
        processes: the processes that hold the rows, each of them some.

    Attributes:
        num_rows: rows ``N`` of all processes.
        num_own_rows: rows of this process.
        first_row: the number of the first row of this process in the whole table.
        is_complete: whether every entry of all processes is there, with a weight of 1.
        gram: the sum over rows of the products of ``(1, x)``, with the covariates ``x`` of a row,
            ``(1 + p, 1 + p)``, in float64.
        units: the units of the covariates in the tiles, or None for their own.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape or value does not fit; the message names the argument.
    """

    def __init__(
        self,
        family: Family,
        num_features: int,
        like: Tensor,
        num_covariates: int = 0,
        processes: Processes = ONE,
    ) -> None:
        check_family(family)
        check_dtype(like)
        self.family = family
        self.num_features = num_features
        self.num_covariates = num_covariates
        self.units: CovariateUnits | None = None
        self.gram = like.new_zeros(1 + num_covariates, 1 + num_covariates, dtype=torch.float64)
        self.like = like.detach()
        self.processes = processes
        self.num_own_rows = 0
        self.is_complete = True
        self._log_base_measure: float | None = None
        self._check_rows()
        check_names_in_processes(processes, self._names)
        check_parameters(self.family, self.num_own_rows, num_features)
        counts = processes.gather(self.num_own_rows)
        self.num_rows, self.first_row = sum(counts), sum(counts[: processes.number])
        if processes.count > 1 and self.num_rows == 0:
            raise ValueError(
                f"y must have at least one row, got none in any of the {processes.count} processes"
            )
        (self.gram,) = processes.sum((self.gram,))
        self.is_complete = all(processes.gather(self.is_complete))

    def _check_rows(self) -> None:
        """Counts the rows, and raises an error unless their entries are possible."""
        for begin, observed in self._batches():
            end = begin + len(observed.y)
            family = self.family.rows(slice(begin, end))
            check_parameters(family, *observed.y.shape)
            check_values(family, observed, self.like)
            self._look_at(begin, observed)
            self.gram += gram_of(observed.covariates, len(observed.y)).to(self.gram)
            self.is_complete &= has_all_entries(observed.mask, observed.weights)
            self.num_own_rows = end

    @property
    def log_base_measure(self) -> float:
        """The weighted sum of ``log h(y)`` over the entries, from a pass when it is wanted."""
        if self._log_base_measure is None:
            own = self.like.new_tensor(self._own_log_base_measure(), dtype=torch.float64)
            self._log_base_measure = float(self.processes.sum((own,))[0])
        return self._log_base_measure

    def _own_log_base_measure(self) -> float:
        """The same sum over the rows of this process."""
        return sum(self._log_base_measure_of(*batch) for batch in self._batches())

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
    def named_rows(self) -> tuple[Any, Any] | None:
        """Frames of ``y`` and of covariates without rows, with the names of a table in batches.

        None for a table in memory, whose names are its own.
        """
        return None

    @property
    def _names(self) -> FrameNames | None:
        """The names in the frames that hold the rows of this process; None without rows."""
        return None

    @property
    def num_predictors(self) -> int:
        """Linear predictors per row."""
        return self.family.num_predictors(self.num_features)

    @abstractmethod
    def _batches(self) -> Iterator[tuple[int, Observations]]:
        """The rows in order, in batches, each with the number of its first row."""

    def tiles(self, at_once: int = 1) -> Iterator[tuple[slice, TableRows]]:
        """The rows of this process in order, with their numbers in it.

        Args:
            at_once: how many tiles to take at once, at most.
        """
        for begin, observed in self._batches():
            for tile in self._tiles_of(observed, at_once):
                rows = slice(begin + tile.start, begin + tile.stop)
                family = self.family.rows(rows)
                part = encoded(family, observed.rows(tile).to(self.like).filled(family))
                own = (part.y, part.offset, part.entry_weights)
                x = observed.covariates
                if x is not None:
                    x = x[tile] if self.units is None else self.units.of_rows(x[tile])
                    x = x.to(self.like)
                yield rows, TableRows(family, *own, covariates=x)

    def sum(
        self,
        of: Callable[[slice, TableRows], Sums],
        same: Tensor | None = None,
        at_once: int = 1,
    ) -> Sums:
        """The sums over all rows of what a function computes from some of them.

        Every fit reduces its table by this function, and what it has computed for each row by the
        sums of :attr:`processes`.

        Args:
            of: returns new tensors, given the numbers of some rows and the rows.
            same: a tensor that must have the same bits in every process.
            at_once: how many tiles to take at once, at most.
        """
        return self.processes.sum(self.own_sum(of, at_once), same)

    def own_sum(self, of: Callable[[slice, TableRows], Sums], at_once: int = 1) -> Sums:
        """The sums over the rows of this process; none if it has no rows."""
        totals: Sums = ()
        for place, rows in self.tiles(at_once):
            found = of(place, rows)
            for total, part in zip(totals, found, strict=bool(totals)):
                total += part
            totals = totals or found
        return totals

    def of_first_row(self, make: Callable[[], Tensor]) -> Tensor:
        """What the process that holds the first row of the whole table makes."""
        has_it = self.first_row == 0 and self.num_own_rows > 0
        found = self.processes.gather(make().cpu() if has_it else None)
        return next(x for x in found if x is not None).to(self.like.device)

    def under(self, family: Family, log_base_measure: float) -> Table:
        """The same observations under another family of the same support.

        Args:
            family: the other family.
            log_base_measure: the sum of its ``log h(y)``.
        """
        other = copy(self)
        other.family, other._log_base_measure = family, log_base_measure
        return other

    def in_units(self, units: CovariateUnits) -> Table:
        """The same observations with covariates in other units."""
        other = copy(self)
        other.units, other.gram = units, units.gram(self.gram)
        return other

    def double(self) -> Table:
        """The same observations in double precision."""
        other = copy(self)
        other.like = self.like.double()
        return other

    def _tiles_of(self, observed: Observations, at_once: int = 1) -> Iterator[slice]:
        if observed.y.dtype != self.like.dtype:
            # These are written anew in the dtype of the fit, and should not leave the cache.
            at_once = max(1, at_once // 2)
        width = max(1, self.num_predictors // at_once)
        return tiles(len(observed.y), width, self.like.device)


def has_all_entries(mask: Tensor | None, weights: Tensor | None) -> bool:
    """Whether no entry is missing, and all have a weight of 1."""
    if mask is not None and not bool(mask.all()):
        return False
    return weights is None or bool((weights == 1).all())


def gram_of(covariates: Tensor | None, num_rows: int) -> Tensor:
    """The sum of the products of ``(1, x)`` over rows, ``(1 + p, 1 + p)``, in float64."""
    if covariates is None:
        return torch.full((1, 1), float(num_rows), dtype=torch.float64)
    known = torch.nn.functional.pad(covariates.double(), (1, 0), value=1.0)
    return known.mT @ known


def _log_base_measure(family: Family, observed: Observations) -> float:
    y, weights = observed.y, observed.entry_weights
    if _repeats(family, y):
        # A logarithm of a factorial for every entry takes ten times as long as counting them.
        every = None if weights is None else weights.expand(y.shape).flatten()
        weights = torch.bincount(y.flatten().long(), every).to(y).unsqueeze(-1)
        y = torch.arange(len(weights), dtype=y.dtype, device=y.device).unsqueeze(-1)
        # What does not occur may be outside of the support.
        y, weights = y[weights > 0].unsqueeze(-1), weights[weights > 0].unsqueeze(-1)
    entries = family.log_base_measure(y)
    if weights is not None:
        entries = entries * weights
    return float(entries.sum(dtype=torch.float64))


def _repeats(family: Family, y: Tensor) -> bool:
    """Whether entries are small whole numbers, each with a base measure alike in all columns."""
    # The base measure of a composition is of all its counts together.
    is_one_law = family.num_columns is None and not family.is_coupled
    is_same = is_one_law and all(x.numel() == 1 for x in family.parameters.values())
    if not (is_same and isinstance(family.support, WHOLE_NUMBERS)) or not y.numel():
        return False
    least, largest = y.aminmax()
    return bool(least >= 0) and bool(largest < min(COUNTED_BELOW, y.numel()))
