"""Losses of bits and counts under a link, entry by entry, as functions of a kernel.

The kernels of the CPU, :mod:`pyro_expfam.deq.cpu.outcomes`, have the same formulas. The dtype is
the dtype of the linear predictor.
"""

import math

import triton
import triton.language as tl

from pyro_expfam.deq.tail_series import MIDDLE, MILLS_POLYNOMIAL, SHARE_SERIES

_MILLS = tl.constexpr(MILLS_POLYNOMIAL[::-1])
_NUM_MILLS = tl.constexpr(len(MILLS_POLYNOMIAL))
_SHARE = tl.constexpr(SHARE_SERIES[::-1])
_NUM_SHARE = tl.constexpr(len(SHARE_SERIES))
_MIDDLE = tl.constexpr(MIDDLE)
_OF_DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi))
_LOG_OF_DENSITY = tl.constexpr(0.5 * math.log(2 * math.pi))
_NO_MORE = tl.constexpr(80.0)
"""A rate beyond which the probability of a zero is below any rounding."""


@triton.jit
def entry_losses(eta, y, total, LINK: tl.constexpr):
    """The losses of counts ``y`` of a total, and their first two derivatives."""
    if LINK == "probit":
        return _probit(eta, y, total)
    else:
        of_success, slope, curvature, rate = _complementary_log_log(eta)
        failures = total - y
        loss = y * of_success + failures * rate
        return loss, y * slope + failures * rate, y * curvature + failures * rate


@triton.jit
def _probit(eta, y, total):
    # One outcome is in the lower tail of the normal distribution, the other in the upper.
    a = tl.abs(eta)
    inverse = 1.0 / (a + _MIDDLE)
    t = (a - _MIDDLE) * inverse
    series = tl.zeros(eta.shape, eta.dtype)
    for k in tl.static_range(_NUM_MILLS):
        series = series * t + _MILLS[k]
    excess = series * inverse
    ratio = a + excess
    square = 0.5 * a * a
    density = _OF_DENSITY * tl.exp(-square)
    tail = density / ratio
    rest = 1.0 - tail
    lower = tl.where(eta < 0, y, total - y)
    upper = total - lower
    # What rounding took from the difference counts where the tail is small.
    of_upper = ((rest - 1.0) + tail) / rest - tl.log(rest)
    loss = lower * (square + _LOG_OF_DENSITY + tl.log(ratio)) + upper * of_upper
    mills = density / rest
    slope = lower * ratio - upper * mills
    curvature = lower * ratio * excess + upper * mills * (mills + a)
    return loss, tl.where(eta < 0, -slope, slope), curvature


@triton.jit
def _complementary_log_log(eta):
    # Sums over columns do not overflow.
    largest: tl.constexpr = 690.0 if eta.dtype == tl.float64 else 80.0
    rate = tl.exp(tl.minimum(eta, largest))
    t = tl.minimum(rate, _NO_MORE)
    is_small = t < 1.0
    zero = tl.exp(-t)
    one = 1.0 - zero
    square = t * t
    even = tl.zeros(eta.shape, eta.dtype)
    for k in tl.static_range(_NUM_SHARE):
        even = even * square + _SHARE[k]
    even *= square
    share = tl.where(is_small, 1.0 - 0.5 * t + even, t * zero / one)
    excess = tl.where(is_small, 0.5 * t + even, t + share - 1.0)
    log = tl.log(tl.where(is_small, share, one))
    upper = ((one - 1.0) + zero) / one - log
    loss = tl.where(is_small, t + log - eta, upper)
    return loss, -share, share * excess, rate
