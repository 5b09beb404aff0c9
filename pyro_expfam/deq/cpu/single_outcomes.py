r"""Slopes and curvatures of bits and counts under a link in float32, compiled by Numba.

They have about the digits of float32, by few operations that all run on vectors of the processor.
No loss is computed: in float32 rounding would take the differences of losses that a line search
compares. The slope at the end of a step decides whether it is taken, as under the own links of bits
and counts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.deq.tail_series import MILLS_FRACTION, SHARE_SERIES

_NUMBER = np.float32
_TO_EXPONENT = _NUMBER(1 / math.log(2))
_TO_SQUARE = _NUMBER(-0.5 / math.log(2))
_OF_DENSITY = _NUMBER(1 / math.sqrt(2 * math.pi))
_ZERO, _HALF, _ONE = _NUMBER(0), _NUMBER(0.5), _NUMBER(1)
_FAR_UP = _NUMBER(16)
"""Beyond this predictor the density is zero in float32."""
_NO_MORE = _NUMBER(100)
"""Beyond this rate the probability of a zero is zero in float32."""

_numerator, _denominator = (polynomial(x) for x in MILLS_FRACTION)
_share = polynomial(SHARE_SERIES[:4])


class SingleProbitLink(NamedTuple):
    """Stands for the probit link in float32.

    Attributes:
        counts: whether observations are counts of successes, rather than bits.
    """

    counts: bool


class SingleComplementaryLogLogLink(NamedTuple):
    """Stands for the complementary log-log link; attributes as of :class:`SingleProbitLink`."""

    counts: bool


@numba.njit(**INLINED)
def _probit(x):
    r"""Minus the slope of :math:`-\log \Phi(x)`, and its curvature.

    With :math:`a = |x|` and a fraction :math:`m(a) = a + e(a)`, :math:`e = n / d`, of polynomials
    for the inverse of Mills' ratio, these are :math:`m` and :math:`m e` in the lower tail, and
    :math:`s = \varphi / (1 - \varphi / m)` and :math:`s (s + a)` in the upper one. Both have one
    division, by :math:`d` or by :math:`a d + n - \varphi d`.
    """
    is_lower = x < _ZERO
    size = abs(x)
    # The density beyond is zero, and its product with a large number must be so too.
    a = size if is_lower else (size if size < _FAR_UP else _FAR_UP)
    n, d = _numerator(a), _denominator(a)
    whole = a * d + n
    density = _OF_DENSITY * power_of_two(_TO_SQUARE * a * a)
    inverse = _ONE / (d if is_lower else whole - density * d)
    mills = (whole if is_lower else whole * density) * inverse
    return mills, mills * (n * inverse if is_lower else mills + a)


@numba.njit(**INLINED)
def _power(exponent):
    # One call per function: Numba warns of variables that two inlined calls share.
    return power_of_two(exponent)


@numba.njit(**INLINED)
def _complementary_log_log(eta):
    r"""The rate :math:`t = e^\eta`, the share :math:`w = t / (e^t - 1)` and :math:`w (t + w - 1)`.

    The rate is the slope and the curvature of a failure, minus the share the slope of a success.
    """
    rate = _power(_TO_EXPONENT * eta)
    t = rate if rate < _NO_MORE else _NO_MORE
    is_small = t < _ONE
    zero = _power(-_TO_EXPONENT * t)
    s = t if is_small else _ZERO
    square = s * s
    even = square * _share(square)
    share = _ONE - _HALF * t + even if is_small else t * zero / (_ONE - zero)
    excess = _HALF * t + even if is_small else t + share - _ONE
    return rate, share, share * excess


@numba.njit(**INLINED)
def single_probit_moments(link, total, eta, y, slope, curvature):
    """Slopes and curvatures of a feature, for all lanes, as ``link_moments``."""
    if link.counts:
        for r in range(LANES):
            x = eta[r]
            successes, failures = y[r], total - y[r]
            of_success, of_failure = _probit(x), _probit(-x)
            slope[r] = failures * of_failure[0] - successes * of_success[0]
            curvature[r] = failures * of_failure[1] + successes * of_success[1]
    else:
        for r in range(LANES):
            sign = _ONE if y[r] > _ZERO else -_ONE
            mills, of_entry = _probit(sign * eta[r])
            slope[r], curvature[r] = -sign * mills, of_entry


@numba.njit(**INLINED)
def single_log_log_moments(link, total, eta, y, slope, curvature):
    """Slopes and curvatures of a feature, for all lanes, as ``link_moments``."""
    if link.counts:
        for r in range(LANES):
            rate, share, of_success = _complementary_log_log(eta[r])
            successes, failures = y[r], total - y[r]
            slope[r] = failures * rate - successes * share
            curvature[r] = failures * rate + successes * of_success
    else:
        for r in range(LANES):
            rate, share, of_success = _complementary_log_log(eta[r])
            is_success = y[r] > _ZERO
            slope[r] = -share if is_success else rate
            curvature[r] = of_success if is_success else rate


SINGLE_MOMENTS: dict[Any, Any] = {
    SingleProbitLink: single_probit_moments,
    SingleComplementaryLogLogLink: single_log_log_moments,
}
"""The functions of the links, by what stands for them."""

SINGLE_LINKS = {
    "probit": SingleProbitLink,
    "complementary_log_log": SingleComplementaryLogLogLink,
}
"""What stands for the links, by the name of the activation."""

CHANGES = {"probit": 6.0, "complementary_log_log": 23.0}
r"""The most by which the logarithm of a curvature changes with the predictor, by the activation.

That is :math:`|\ell'''| / \ell''` up to the predictor 6 of a success under the probit link, and up
to the rate 25 of a success under the other one. Beyond, third derivatives are below 3e-7 and the
curvatures below 4e-8, which adds nothing to a sum in float32.
"""
