"""A table in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.frames import naming_entries_of
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.observations import (
    Missing,
    Observations,
    absent_columns,
    as_observations,
    check_any_entry,
)
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.families import Family
from pyro_expfam.joint.frame_names import FrameNames
from pyro_expfam.joint.table import Table


class TableInMemory(Table):
    """A table in memory, kept in its own dtype.

    Args:
        family: the law of the observations.
        num_features: columns ``d``.
        like: a tensor of the dtype and device of the fit.
        y: observations, ``(N, d)``.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, num_covariates)``.
        missing: ``"nan"`` if NaN in ``y`` is a missing entry.
        num_covariates: covariates of a row.
        processes: the processes that hold the rows, each of them a table of its own.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit, or no entry is present; the message
            names the argument.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.ones(100, 6))
        >>> table = pef.joint.TableInMemory(pef.families.Poisson(), 6, torch.zeros(()), y)
        >>> table.num_rows
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
        missing: Missing = None,
        num_covariates: int = 0,
        processes: Processes = ONE,
    ) -> None:
        check_family(family)
        y, offset, mask, weights = in_order_of_names(family, y, offset, mask, weights)
        self._names_of_frames = FrameNames.of(family, y, covariates)
        self._observed = as_rows(
            y,
            family,
            num_features,
            like,
            offset,
            mask,
            weights,
            covariates,
            missing=missing,
            num_covariates=num_covariates,
        )
        if processes.count == 1:
            check_any_entry(self._observed.mask)
            check_any_entry(self._observed.weights)
        with naming_entries_of(y):
            super().__init__(family, num_features, like, num_covariates, processes)

    @property
    def absent_columns(self) -> list[int]:
        """Columns that mask and weights leave no entry of."""
        return absent_columns(self._observed.mask, self._observed.weights)

    @property
    def _names(self) -> FrameNames:
        return self._names_of_frames

    def _batches(self) -> Iterator[tuple[int, Observations]]:
        yield 0, self._observed


def as_rows(
    y: Any,
    family: Family,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    missing: Missing = None,
    num_covariates: int = 0,
) -> Observations:
    """Checked observations of rows, without batch dimensions."""
    observed = as_observations(
        family,
        y,
        num_features,
        like,
        offset,
        mask,
        weights,
        covariates,
        missing=missing,
        num_covariates=num_covariates,
    )
    if observed.y.dim() != 2:
        raise ValueError(
            f"y must have shape (rows, {num_features}), got {tuple(observed.y.shape)} with the "
            "batch dimensions of y, offset, mask, weights and covariates"
        )
    return observed
