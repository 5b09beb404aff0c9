"""Losses, residuals and variances of the entries of a tile, in one pass, compiled by Numba.

The products on both sides of this pass are PyTorch's. As operations of PyTorch the pass would be
six, each of which writes a matrix of the size of the tile.
"""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy as np
from torch import Tensor

from pyro_expfam.deq.activation import Activation
from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, compiled_once, whole_registers
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.likelihood import FEATURES_AT_ONCE, find_odds, find_rates
from pyro_expfam.deq.cpu.separate_moments import EXPONENTIAL, KINDS
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans

AT_ONCE = 2_048
"""Entries whose exponentials are in the fastest cache, at most, unless a row has more."""

SUMMED = 512
"""Losses that are summed in the precision of the table."""


def find_terms(
    activation: Activation,
    eta: Tensor,
    statistic: Tensor | None,
    weights: Tensor | None,
    residual: Tensor,
) -> Tensor:
    """The sums of the losses by row, ``(n,)``; the other terms are written in place.

    Args:
        activation: of bits, counts of one total, or counts.
        eta: linear predictors ``(n, d)``, contiguous, which the weighted variances replace.
        statistic: sufficient statistics ``(n, d)``, or None for zeros.
        weights: weights that broadcast to ``(n, d)``, or None for ones.
        residual: where weighted residuals go, ``(n, d)``, contiguous.
    """
    num_rows, num_features = eta.shape
    number = eta.numpy().dtype.type
    losses = eta.new_empty(num_rows)
    arrays = (eta, _rows_of(statistic, eta, 0.0), _rows_of(weights, eta, 1.0), residual)
    work = partial(
        _find_terms,
        KINDS[activation.name],
        number(activation.size),
        number(LARGEST_EXPONENT[number]),
        weights is not None,
        num_features,
        *(x.numpy().reshape(-1) for x in arrays),
        losses.numpy(),
    )
    in_threads(work, spans(num_rows, num_features, ENTRIES_TO_SOLVE))
    return losses


def _rows_of(entries: Tensor | None, like: Tensor, default: float) -> Tensor:
    """Entries of every row, or one row that all rows share, contiguous."""
    if entries is None:
        return like.new_full((1, like.shape[1]), default)
    if entries.shape[-2] == 1:
        return entries.expand(1, like.shape[1]).contiguous()
    return entries.expand(like.shape).contiguous()


@compiled_once
def _find_terms(
    kind, size, largest, weighted, width, eta, statistic, weight, residual, losses, begin, end
):
    """The terms of the rows from ``begin`` to ``end``."""
    rows = max(1, AT_ONCE // width)
    power = np.empty(rows * width, eta.dtype)
    by_row = 1 if len(statistic) > width else 0
    weight_by_row = 1 if len(weight) > width else 0
    for first in range(begin, end, rows):
        last = min(first + rows, end)
        of_block = eta[first * width : last * width]
        if kind == EXPONENTIAL:
            find_rates(size, largest, of_block, power, len(of_block))
        else:
            find_odds(of_block, power, len(of_block))
        for s in range(first, last):
            loss = 0.0
            for i in range(0, width, SUMMED):
                # Indices that begin at zero need no check of their sign, which would rule out
                # the vectors of the processor.
                j = min(i + SUMMED, width)
                x, left = (
                    eta[s * width + i : s * width + j],
                    residual[s * width + i : s * width + j],
                )
                y = statistic[by_row * s * width + i : by_row * s * width + j]
                own = power[(s - first) * width + i : (s - first) * width + j]
                w = weight[weight_by_row * s * width + i : weight_by_row * s * width + j]
                if kind == EXPONENTIAL:
                    loss += _of_counts(x, y, w, own, left)
                elif weighted:
                    loss += _of_weighted_bits(size, x, y, w, own, left)
                else:
                    loss += _of_bits(size, x, y, own, left)
            losses[s] = loss


@numba.njit(**IN_ANY_ORDER)
def _of_counts(eta, statistic, weight, rate, residual):
    """The loss of some counts of a row, whose other terms are written."""
    whole_registers()
    loss = eta.dtype.type(0)
    for i in range(len(eta)):
        x, y, w, mean = eta[i], statistic[i], weight[i], rate[i]
        residual[i] = w * (y - mean)
        eta[i] = w * mean
        loss += w * (mean - y * x)
    return loss


@numba.njit(**IN_ANY_ORDER)
def _of_bits(size, eta, statistic, odds, residual):
    """The loss of some bits of a row, whose other terms are written.

    The partition is the larger of 0 and the predictor, plus the logarithm of one plus the odds
    against the likelier outcome.
    """
    whole_registers()
    one, zero = eta.dtype.type(1), eta.dtype.type(0)
    loss, logarithm = zero, 0.0
    for i in range(len(eta)):
        x, y, against = eta[i], statistic[i], odds[i]
        likelier = one / (one + against)
        other = against * likelier
        residual[i] = y - size * (likelier if x > zero else other)
        eta[i] = size * likelier * other
        loss += size * (x if x > zero else zero) - y * x
    for begin in range(0, len(odds), FEATURES_AT_ONCE):
        product, factors = one, odds[begin : begin + FEATURES_AT_ONCE]
        for i in range(len(factors)):
            product *= one + factors[i]
        logarithm += math.log(product)
    return loss + size * logarithm


@numba.njit(**IN_ANY_ORDER)
def _of_weighted_bits(size, eta, statistic, weight, odds, residual):
    """As :func:`_of_bits`, with a weight for every entry."""
    whole_registers()
    one, zero = eta.dtype.type(1), eta.dtype.type(0)
    loss = 0.0
    for i in range(len(eta)):
        x, y, against, w = eta[i], statistic[i], odds[i], weight[i]
        likelier = one / (one + against)
        other = against * likelier
        residual[i] = w * (y - size * (likelier if x > zero else other))
        eta[i] = w * size * likelier * other
        partition = (x if x > zero else zero) + natural_log(1.0 + against)
        loss += w * (size * partition - y * x)
    return loss
