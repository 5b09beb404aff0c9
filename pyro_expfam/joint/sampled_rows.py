"""Rows drawn at random from a large table, on which a fit finds its start."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyro_expfam.deq.observations import Observations
from pyro_expfam.joint.table import Table, gram_of

ENTRIES = (1 << 20, 1 << 26)
"""Entries of the samples of a large table: of the one on which starts are compared, and of the one
on which the best of them is followed."""

FEWEST_ROWS = 2_048
"""Rows of a sample, unless it would then be no small part of its table."""

SMALL_PART = 4
"""A sample is worth while if the table, or the next larger sample, has so many times its rows."""


class SampledRows(Table):
    """Some rows of a table, in memory.

    Args:
        table: the table, which has been checked, and so have its rows.
        rows: the rows of this process.
    """

    def __init__(self, table: Table, rows: Observations) -> None:
        self.family, self.num_features, self.like = table.family, table.num_features, table.like
        self.num_covariates, self.units = table.num_covariates, table.units
        self.processes, self._log_base_measure = table.processes, None
        self.is_complete = table.is_complete
        self._observed = rows
        self.num_own_rows = len(rows.y)
        counts = self.processes.gather(self.num_own_rows)
        self.num_rows, self.first_row = sum(counts), sum(counts[: self.processes.number])
        own = gram_of(rows.covariates, self.num_own_rows).to(table.gram)
        (gram,) = self.processes.sum((own,))
        self.gram = gram if self.units is None else self.units.gram(gram)

    def every(self, step: int) -> SampledRows:
        """Every so many of the rows, in all processes together."""
        return SampledRows(self, self._observed.rows(slice(-self.first_row % step, None, step)))

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        if self.num_own_rows:
            yield 0, self._observed


def samples_of(table: Table) -> list[SampledRows]:
    """Samples of the rows of a table, the smallest first; none of a small table.

    The rows are drawn by their numbers in the whole table, so that they are the same for any number
    of processes. A table whose law differs by row has none.
    """
    width = table.num_predictors
    sizes = [max(entries // width, FEWEST_ROWS) for entries in ENTRIES]
    if table.family.differs_by_row or sizes[0] * SMALL_PART > table.num_rows:
        return []
    largest = max(sizes[0], min(sizes[1], table.num_rows // (2 * SMALL_PART)))
    sample = SampledRows(table, _drawn(table, largest))
    step = sample.num_rows // sizes[0]
    return [sample.every(step), sample] if step >= SMALL_PART else [sample]


def _drawn(table: Table, size: int) -> Observations:
    """The rows of this process among about so many that are drawn from all."""
    seed = table.processes.of_first(torch.initial_seed)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(table.num_rows, (size,), generator=generator).unique() - table.first_row
    parts = []
    for begin, observed in table._batches():
        num_rows = len(observed.y)
        bounds = torch.tensor([begin, begin + num_rows])
        first, last = torch.searchsorted(numbers, bounds).tolist()
        if first < last:
            chosen = numbers[first:last].to(observed.y.device) - begin
            # A batch may have one row of offset, mask or weights for all of its rows.
            parts.append([None if x is None else x.expand(num_rows, -1)[chosen] for x in observed])
    if not parts:
        return _no_rows(table)
    columns = zip(*parts, strict=True)
    y, *others = (None if x[0] is None else torch.cat(x) for x in columns)
    assert y is not None
    return Observations(y, *others)


def _no_rows(table: Table) -> Observations:
    none = table.like.new_zeros
    covariates = none(0, table.num_covariates) if table.num_covariates else None
    return Observations(none(0, table.num_features), covariates=covariates)
