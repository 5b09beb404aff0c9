"""The table of a process without rows."""

from __future__ import annotations

from collections.abc import Iterator

from pyro_expfam.deq.observations import Observations
from pyro_expfam.joint.table import Table


class EmptyTable(Table):
    """No rows, in a process of several that hold a table together.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit.
        processes: the processes that hold the rows.
    """

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        return iter(())
