r"""Links of means for compiled functions, with their first five derivatives.

A law under a link has the loss :math:`f(R(\eta))` with the loss ``f`` of the law without the link.
Its derivatives in the linear predictor :math:`\eta` follow from the derivatives of ``f`` and of
``R`` by the formula of Faa di Bruno.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from pyro_expfam.deq.cpu.beta_entries import composed
from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT, power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.links.log_rates import log_of_log1p_series

_TO_EXPONENT, _LARGEST = 1 / math.log(2), float(LARGEST_EXPONENT[np.float64])

_SMALL, _TERMS = 0.1, 20
"""The largest rate for which the log softplus comes from its series, and the terms of the series:
the first that are left out are below rounding in all derivatives."""

_series, _one, _two, _three, _four, _five = (
    polynomial([c * n**order for n, c in enumerate(log_of_log1p_series(_TERMS))])
    for order in range(6)
)


@numba.njit(**INLINED)
def _parts(x):
    """The softplus of a number, and the logistic function with one minus it."""
    odds = power_of_two(-_TO_EXPONENT * abs(x))
    larger = 1.0 / (1.0 + odds)
    smaller, is_positive = odds * larger, x > 0
    size = (x if is_positive else 0.0) + natural_log(1.0 + odds)
    return size, larger if is_positive else smaller, smaller if is_positive else larger


@numba.njit(**INLINED)
def into_log_softplus(eta, own, slopes):
    r"""The function :math:`\log \log(1 + e^\eta)`, and its derivatives, of all lanes.

    For small rates it is :math:`\eta` and a power series. Elsewhere the slope ``q`` is the logistic
    function over the softplus, with :math:`q' = q h`, where :math:`h` is one minus both.

    Args:
        eta: linear predictors, ``(lanes,)``.
        own: where the function goes, ``(lanes,)``.
        slopes: where its derivatives go, ``(5, lanes)``.
    """
    for r in range(LANES):
        x = eta[r]
        is_small = x < _LOG_SMALL
        t = power_of_two(_TO_EXPONENT * (x if is_small else _LOG_SMALL))
        size, p, rest = _parts(x if x > _LOG_SMALL else _LOG_SMALL)
        v, d = p * rest, rest - p
        q = p / size
        h = rest - q
        q1 = q * h
        h1 = -v - q1
        q2 = q1 * h + q * h1
        h2 = -v * d - q2
        q3 = q2 * h + 2.0 * q1 * h1 + q * h2
        h3 = -v * (1.0 - 6.0 * v) - q3
        q4 = q3 * h + 3.0 * (q2 * h1 + q1 * h2) + q * h3
        own[r] = x + _series(t) if is_small else natural_log(size)
        slopes[0, r] = 1.0 + _one(t) if is_small else q
        slopes[1, r] = _two(t) if is_small else q1
        slopes[2, r] = _three(t) if is_small else q2
        slopes[3, r] = _four(t) if is_small else q3
        slopes[4, r] = _five(t) if is_small else q4


_LOG_SMALL = math.log(_SMALL)


@numba.njit(**INLINED)
def into_softplus(eta, own, slopes):
    r"""The function :math:`\log(1 + e^\eta)`, and its derivatives; arguments as above."""
    for r in range(LANES):
        size, p, rest = _parts(eta[r])
        v, d = p * rest, rest - p
        own[r], slopes[0, r], slopes[1, r], slopes[2, r] = size, p, v, v * d
        slopes[3, r], slopes[4, r] = v * (1.0 - 6.0 * v), v * d * (1.0 - 12.0 * v)


@numba.njit(**INLINED)
def into_power_of_e(eta, own, slopes):
    r"""The function :math:`e^\eta`, which is all of its derivatives; arguments as above."""
    for r in range(LANES):
        exponent = _TO_EXPONENT * eta[r]
        mean = power_of_two(exponent if exponent < _LARGEST else _LARGEST)
        own[r] = mean
        for k in range(5):
            slopes[k, r] = mean


@numba.njit(**INLINED)
def by_link(slopes, found):
    """Turns derivatives of losses in what a link gives into those in the linear predictor.

    Args:
        slopes: the derivatives of the link, ``(5, lanes)``.
        found: losses and their derivatives, ``(6, lanes)``, which are overwritten.
    """
    for r in range(LANES):
        of = composed(
            found[1, r],
            found[2, r],
            found[3, r],
            found[4, r],
            found[5, r],
            slopes[0, r],
            slopes[1, r],
            slopes[2, r],
            slopes[3, r],
            slopes[4, r],
        )
        found[1, r], found[2, r], found[3, r] = of[0], of[1], of[2]
        found[4, r], found[5, r] = of[3], of[4]


@numba.njit(**INLINED)
def inputs_of_own(inputs, own, slopes, to):
    """What multiplies derivatives in what a link gives, from what multiplies those in ``eta``.

    Args:
        inputs: linear predictors, and what multiplies derivatives of the log density, the
            curvature, the score, the third and the fourth derivative of the loss, ``(6, lanes)``.
        own: what the link gives, ``(lanes,)``.
        slopes: the derivatives of the link, ``(5, lanes)``.
        to: where the same goes for the law without the link, ``(6, lanes)``.
    """
    for r in range(LANES):
        a, b, c, d = slopes[0, r], slopes[1, r], slopes[2, r], slopes[3, r]
        second, score, third, fourth = inputs[2, r], inputs[3, r], inputs[4, r], inputs[5, r]
        square = a * a
        to[0, r], to[1, r] = own[r], inputs[1, r]
        to[2, r] = second * square + 3.0 * third * a * b + fourth * (3.0 * b * b + 4.0 * a * c)
        # A score is minus the first derivative of the loss.
        to[3, r] = score * a - second * b - third * c - fourth * d
        to[4, r] = third * square * a + 6.0 * fourth * square * b
        to[5, r] = fourth * square * square
