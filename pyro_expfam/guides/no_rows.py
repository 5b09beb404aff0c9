"""A table without rows, as a process of several may have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.observations import entries_of_table
from pyro_expfam.models import ExpFamPCA


def has_no_rows(y: Any) -> bool:
    """Whether a table in memory has no rows."""
    shape = getattr(y, "shape", None)
    if shape is None:
        return isinstance(y, Sequence) and len(y) == 0
    return len(shape) > 0 and shape[0] == 0


def check_no_rows(block: ExpFamPCA, y: Any, *entries: Any, like: Tensor) -> None:
    """An error unless a table without rows has the columns of a block.

    An empty list has no columns, and fits every block.

    Args:
        block: the block of the table.
        y: the table.
        *entries: offset, mask, weights and covariates, or the first of them.
        like: a tensor on the device of the block.

    Raises:
        TypeError: if offset, mask, weights or covariates hold no real numbers.
        ValueError: if a number of columns is another; the message names the argument.
    """
    nothing: tuple[Any, ...] = (None,) * (4 - len(entries))
    offset, mask, weights, covariates = entries + nothing
    y, offset, mask, weights = in_order_of_names(block.family, y, offset, mask, weights)
    size, shape = block.num_features, tuple(getattr(y, "shape", (0, block.num_features)))
    if len(shape) < 2 or shape[-1] != size:
        raise ValueError(
            f"y must have shape (..., rows, {size}), one column for each feature, also where a "
            f"process has no rows, got {shape}"
        )
    entries_of_table(block.family, torch.Size(shape), like, offset, mask, weights)
    if covariates is not None:
        as_covariates(covariates, block.num_covariates, 0, like)
