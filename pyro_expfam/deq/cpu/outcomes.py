"""Losses of one of two outcomes by their link, with two derivatives, compiled by Numba.

Each link is one function of the linear predictor. To add one, write its function and a class that
stands for it here, and name it in :mod:`pyro_expfam.deq.activation`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
from numba.extending import overload

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.deq.tail_series import MIDDLE, MILLS_POLYNOMIAL, SHARE_SERIES

_TO_EXPONENT = 1 / math.log(2)
_OF_DENSITY = 1 / math.sqrt(2 * math.pi)
_LOG_OF_DENSITY = 0.5 * math.log(2 * math.pi)

LARGEST_RATE = 1000.0
"""The largest exponent of two of a rate, so that sums over columns do not overflow."""

NO_MORE = 750.0
"""Beyond this rate the probability of a zero is zero in float64."""

_mills = polynomial(MILLS_POLYNOMIAL)
_share = polynomial(SHARE_SERIES)


class ProbitLink(NamedTuple):
    """Stands for the probit link.

    Attributes:
        counts: whether observations are counts of successes, rather than bits.
    """

    counts: bool


class ComplementaryLogLogLink(NamedTuple):
    """Stands for the complementary log-log link; attributes as of :class:`ProbitLink`."""

    counts: bool


def outcome(link: Any, eta: Any, success: Any) -> Any:
    """Minus the log probability of an outcome and its first two derivatives in ``eta``.

    Args:
        link: stands for the link.
        eta: the linear predictor, in float64.
        success: whether the outcome is a success.
    """
    raise NotImplementedError("only for compiled functions")


@numba.njit(**INLINED)
def _power(exponent):
    # One call per function: Numba warns of variables that two inlined calls share.
    return power_of_two(exponent)


@numba.njit(**INLINED)
def _probit(eta, success):
    r"""The loss :math:`-\log \Phi(x)` with :math:`x = \pm \eta`.

    In the lower tail, :math:`x = -a`, it is :math:`a^2 / 2 + \log m(a)` and a constant, with the
    derivatives :math:`-m` and :math:`m (m - a)`.
    """
    x = eta if success else -eta
    a = abs(x)
    inverse = 1.0 / (a + MIDDLE)
    excess = _mills((a - MIDDLE) * inverse) * inverse
    ratio = a + excess
    square = 0.5 * a * a
    density = _OF_DENSITY * _power(-_TO_EXPONENT * square)
    tail = density / ratio
    is_lower = x < 0
    rest = 1.0 - tail
    of_rest = 1.0 / rest
    log = natural_log(ratio if is_lower else rest)
    # What rounding took from the difference counts where the tail is small.
    upper = ((rest - 1.0) + tail) * of_rest - log
    loss = square + _LOG_OF_DENSITY + log if is_lower else upper
    mills = ratio if is_lower else density * of_rest
    curvature = mills * (excess if is_lower else mills + a)
    return loss, -mills if success else mills, curvature


@numba.njit(**INLINED)
def _complementary_log_log(eta, success):
    r"""The rate :math:`t = e^\eta` of a failure, and :math:`-\log(1 - e^{-t})` of a success.

    The derivatives of the latter are :math:`-w` and :math:`w (t + w - 1)` with the share
    :math:`w = t / (e^t - 1)`.
    """
    exponent = _TO_EXPONENT * eta
    rate = _power(exponent if exponent < LARGEST_RATE else LARGEST_RATE)
    t = rate if rate < NO_MORE else NO_MORE
    is_small = t < 1.0
    zero = _power(-_TO_EXPONENT * t)
    one = 1.0 - zero
    square = t * t
    even = square * _share(square)
    of_one = 1.0 / one
    share = 1.0 - 0.5 * t + even if is_small else t * zero * of_one
    excess = 0.5 * t + even if is_small else t + share - 1.0
    log = natural_log(share if is_small else one)
    upper = ((one - 1.0) + zero) * of_one - log
    loss = t + log - eta if is_small else upper
    curvature = share * excess
    if success:
        return loss, -share, curvature
    return rate, rate, rate


OUTCOMES = {ProbitLink: _probit, ComplementaryLogLogLink: _complementary_log_log}
"""The functions of the links, by what stands for them."""

LINKS = {"probit": ProbitLink, "complementary_log_log": ComplementaryLogLogLink}
"""What stands for the links, by the name of the activation."""


@overload(outcome, jit_options=INLINED)
def _outcome(link, eta, success):
    function = OUTCOMES[link.instance_class]
    return lambda link, eta, success: function(eta, success)


@numba.njit(**INLINED)
def entry_losses(link, total, eta, y, loss, slope, curvature):
    """Losses of a feature and their derivatives, for all lanes.

    Args:
        link: stands for the link.
        total: the total of a count.
        eta: linear predictors, ``(lanes,)``.
        y: bits or counts, ``(lanes,)``.
        loss: where losses go.
        slope: where their derivatives go.
        curvature: where their second derivatives go.
    """
    if link.counts:
        for r in range(LANES):
            of_success, of_failure = outcome(link, eta[r], True), outcome(link, eta[r], False)
            successes, failures = y[r], total - y[r]
            loss[r] = successes * of_success[0] + failures * of_failure[0]
            slope[r] = successes * of_success[1] + failures * of_failure[1]
            curvature[r] = successes * of_success[2] + failures * of_failure[2]
    else:
        for r in range(LANES):
            loss[r], slope[r], curvature[r] = outcome(link, eta[r], y[r] > 0)


@numba.njit(**INLINED)
def link_moments(link, total, eta, y, slope, curvature):
    """As :func:`entry_losses`, without the losses."""
    if link.counts:
        for r in range(LANES):
            of_success, of_failure = outcome(link, eta[r], True), outcome(link, eta[r], False)
            successes, failures = y[r], total - y[r]
            slope[r] = successes * of_success[1] + failures * of_failure[1]
            curvature[r] = successes * of_success[2] + failures * of_failure[2]
    else:
        for r in range(LANES):
            _, slope[r], curvature[r] = outcome(link, eta[r], y[r] > 0)
