"""Losses, residuals and variances of the entries of a tile, by PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.families import Entries, Family


class Scratch:
    """Memory for three matrices of the size of a tile, which every evaluation overwrites.

    Allocating it anew for every tile costs more than the computation.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def matrices(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Three matrices of a shape, ``(3, *shape)``, of the dtype and device of ``like``."""
        size = math.prod(shape)
        if self._memory is None or self._memory.shape[1] < size:
            self._memory = like.new_empty(3, size)
        return self._memory[:, :size].view(3, *shape)


class EntryTerms(NamedTuple):
    """Weighted terms from the entries of some rows.

    Attributes:
        losses: the sums of the losses by row, ``(..., n)``.
        residual: weighted residuals, ``(..., n, d)``; without the statistics if these were left
            out.
        variance: weighted variances, ``(..., n, d)``.
    """

    losses: Tensor
    residual: Tensor
    variance: Tensor


def entry_terms(
    family: Family,
    entries: Entries,
    statistic: Tensor | None,
    weights: Tensor | None,
    matrices: Tensor,
) -> EntryTerms:
    """The terms of the entries of a tile.

    Args:
        family: the law of the entries.
        entries: the entries.
        statistic: the factor of the linear part of their losses, or None to leave it out.
        weights: the weights of the entries, or None.
        matrices: linear predictors, and two matrices of the same shape, ``(3, ..., n, d)``. All
            are overwritten, and results may lie in them.
    """
    eta, product, spare = matrices
    if statistic is not None:
        torch.mul(statistic, eta, out=product)
    loss, mean, variance = entries.first_cumulants_in_place(eta, spare)
    if statistic is not None:
        loss = torch.sub(loss, product, out=product)
    if weights is not None:
        loss = loss * weights if statistic is None else loss.mul_(weights)
    # Rows are summed first: a double-precision sum over all entries would copy them.
    losses = loss.sum(-1)
    if statistic is None:
        residual = torch.neg(mean, out=product)
    else:
        residual = torch.sub(statistic, mean, out=product)
    if weights is not None:
        residual.mul_(weights)
        variance = variance * weights
    return EntryTerms(losses, residual, variance)
