r"""Losses of observations and their first five derivatives, for all lanes, compiled by Numba.

Each function takes linear predictors, observations and parameters of the feature, and writes losses
and their derivatives in the linear predictor.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT, power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.outcomes import (
    ComplementaryLogLogLink,
    ProbitLink,
    outcome,
)
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.deq.cpu.zero_inflated_entries import inflate, mean_of_zero
from pyro_expfam.families.continuous_bernoulli import series_coefficients

_TO_EXPONENT, _LARGEST = 1 / math.log(2), float(LARGEST_EXPONENT[np.float64])
_ONES = np.ones(LANES)
_FAR = 40.0
"""Where the series of the probit in the lower tail begins."""

_probit_link, _log_log_link = ProbitLink(False), ComplementaryLogLogLink(False)


@numba.njit(**INLINED)
def look_up(y, cuts, lower, upper):
    """The cut points around ordered answers, for all lanes."""
    last = len(cuts) - 2
    for r in range(LANES):
        # No answer of a table is out of range; no other may read beyond the array.
        given = y[r] if y[r] > 0.0 else 0.0
        answer = np.int64(given if given < last else last)
        lower[r], upper[r] = cuts[answer], cuts[answer + 1]


@numba.njit(**INLINED)
def _odds(x):
    """The odds against the likelier outcome of a logistic variable."""
    return power_of_two(-_TO_EXPONENT * abs(x))


@numba.njit(**INLINED)
def ordinal(eta, y, cuts, loss, first, second, third, fourth, fifth):
    r"""The sum of the losses :math:`\log(1 + e^x)` of :math:`\eta - c_{y+1}` and the other side."""
    look_up(y, cuts, first, second)
    for r in range(LANES):
        # What is looked up for a lane is read before its derivatives are written.
        above, below = eta[r] - second[r], first[r] - eta[r]
        of_above, of_below = _odds(above), _odds(below)
        one, other = 1.0 + of_above, 1.0 + of_below
        product = one * other
        inverse = 1.0 / product
        larger, other_larger = other * inverse, one * inverse
        smaller, other_smaller = of_above * larger, of_below * other_larger
        loss[r] = (
            (above if above > 0 else 0.0) + (below if below > 0 else 0.0) + natural_log(product)
        )
        share, other_share = (
            larger if above > 0 else smaller,
            (other_larger if below > 0 else other_smaller),
        )
        first[r] = share - other_share
        v, u = larger * smaller, other_larger * other_smaller
        # One minus twice the shares.
        d, e = larger - smaller, other_larger - other_smaller
        skew, other_skew = -v * d if above > 0 else v * d, -u * e if below > 0 else u * e
        second[r] = v + u
        third[r] = skew - other_skew
        fourth[r] = v * (1.0 - 6.0 * v) + u * (1.0 - 6.0 * u)
        fifth[r] = skew * (1.0 - 12.0 * v) - other_skew * (1.0 - 12.0 * u)


_EXACT = 1e-16
_partition, _mean, _variance, _third, _fourth, _fifth = (
    polynomial(series_coefficients(order, _EXACT)) for order in range(6)
)


@numba.njit(**INLINED)
def continuous_bernoulli(eta, y, loss, first, second, third, fourth, fifth):
    r"""The loss :math:`A(\eta) - y \eta`, by series near zero.

    Elsewhere the derivatives of :math:`A` are differences of powers of :math:`1 / u` and
    polynomials in :math:`w = 1 / (e^u - 1)` with :math:`u = |\eta|`.
    """
    for r in range(LANES):
        x = eta[r]
        u = abs(x)
        square = x * x
        is_near, is_narrow = u < 3.0, u < 1.0
        s = square if is_near else 0.0
        n = square if is_narrow else 0.0
        power = power_of_two(-_TO_EXPONENT * u)
        v = u if u > 0.5 else 0.5
        rest = 1.0 - (power if u > 0.5 else 0.5)
        inverse = 1.0 / (v * rest)
        reciprocal = rest * inverse
        w = power * v * inverse
        a = w * (1.0 + w)
        sign = 1.0 if x > 0 else -1.0
        far = (x if x > 0 else 0.0) + natural_log(rest * reciprocal)
        partition = x * (0.5 + x * _partition(n)) if is_narrow else far
        loss[r] = partition - y[r] * x
        upper = 0.5 - (reciprocal - w)
        mean = x * _mean(n) if is_narrow else sign * upper
        first[r] = mean + 0.5 - y[r]
        square = reciprocal * reciprocal
        second[r] = _variance(n) if is_narrow else square - a
        far = a * (1.0 + 2.0 * w) - 2.0 * square * reciprocal
        third[r] = x * _third(s) if is_near else sign * far
        far = 6.0 * square * square - a * (1.0 + 6.0 * a)
        fourth[r] = _fourth(s) if is_near else far
        far = a * (1.0 + 2.0 * w) * (1.0 + 12.0 * a) - 24.0 * square * square * reciprocal
        fifth[r] = x * _fifth(s) if is_near else sign * far


@numba.njit(**INLINED)
def _of_probit(x):
    r"""The loss :math:`-\log \Phi(x)` and its derivatives.

    With the inverse of Mills' ratio ``m`` and :math:`e = m + x`, the second is :math:`c = m e`, and
    the others follow from :math:`m' = -c` and :math:`e' = 1 - c`. Far in the lower tail, where
    these cancel, they come from the series of ``e``.
    """
    loss, slope, c = outcome(_probit_link, x, True)
    m = -slope
    # In the lower tail the curvature has the digits that the sum would lose.
    e = m + x if x > -1.0 else c / m
    far = x < -_FAR
    total = m + e
    third = m * (1.0 - c) - c * e
    fourth = -2.0 * c * (1.0 - c) - third * total
    fifth = third * (6.0 * c - 3.0) - fourth * total
    # Powers of minus x of at least the distance at which the series begins.
    g = 1.0 / (-x if far else _FAR)
    h = g * g
    third_far = -g * h * (2.0 - h * (24.0 - h * (300.0 - h * (4144.0 - h * 63540.0))))
    fourth_far = -h * h * (6.0 - h * (120.0 - h * (2100.0 - h * (37296.0 - h * 698940.0))))
    fifth_far = -g * h * h * (24.0 - h * (720.0 - h * (16800.0 - h * (372960.0 - h * 8387280.0))))
    return (
        loss,
        slope,
        c,
        third_far if far else third,
        fourth_far if far else fourth,
        fifth_far if far else fifth,
    )


@numba.njit(**INLINED)
def probit(eta, y, total, loss, first, second, third, fourth, fifth):
    """Counts of successes of a total under the probit link; bits have the total 1."""
    if total == 1.0:
        for r in range(LANES):
            sign = 1.0 if y[r] > 0 else -1.0
            found = _of_probit(sign * eta[r])
            loss[r], first[r], second[r] = found[0], sign * found[1], found[2]
            third[r], fourth[r], fifth[r] = sign * found[3], found[4], sign * found[5]
    else:
        for r in range(LANES):
            x, successes = eta[r], y[r]
            failures = total - successes
            found, other = _of_probit(x), _of_probit(-x)
            loss[r] = successes * found[0] + failures * other[0]
            first[r] = successes * found[1] - failures * other[1]
            second[r] = successes * found[2] + failures * other[2]
            third[r] = successes * found[3] - failures * other[3]
            fourth[r] = successes * found[4] + failures * other[4]
            fifth[r] = successes * found[5] - failures * other[5]


@numba.njit(**INLINED)
def complementary_log_log(eta, y, total, loss, first, second, third, fourth, fifth):
    r"""Counts of successes of a total under the complementary log-log link.

    A failure has the loss :math:`t = e^\eta`, which is all of its derivatives. A success has
    :math:`-w` and :math:`c = w x` with :math:`w = t / (e^t - 1)` and :math:`x = t + w - 1`. The
    others follow from :math:`w' = -c` and :math:`x' = t - c`.
    """
    for r in range(LANES):
        of_success = outcome(_log_log_link, eta[r], True)
        t = outcome(_log_log_link, eta[r], False)[0]
        w, c = -of_success[1], of_success[2]
        # Beyond this rate all derivatives of a success are zero.
        s = t if t < 800.0 else 800.0
        x = c / (w if w > 1e-300 else 1e-300)
        sum_of = x + w
        k = w * s
        three = k - c * sum_of
        four = k - 2.0 * c * s - three * sum_of + 2.0 * c * c
        five = k - 3.0 * s * (c + three) - four * sum_of + 6.0 * c * three
        successes, failures = y[r], total - y[r]
        rate = failures * t
        loss[r] = successes * of_success[0] + rate
        first[r] = rate - successes * w
        second[r] = successes * c + rate
        third[r] = successes * three + rate
        fourth[r] = successes * four + rate
        fifth[r] = successes * five + rate


@numba.njit(**INLINED)
def negative_binomial(eta, y, size, log_size, loss, first, second, third, fourth, fifth):
    r"""Counts of mean :math:`e^\eta`: the losses of bits, less terms free of ``eta``.

    The odds are the mean over the size. For a mean above the size their log would cancel against
    the linear predictor.
    """
    for r in range(LANES):
        odds, n = eta[r] - log_size, y[r] + size
        is_high, small = odds > 0, _odds(odds)
        larger = 1.0 / (1.0 + small)
        smaller = small * larger
        success, failure = (larger, smaller) if is_high else (smaller, larger)
        rest = natural_log(1.0 + small)
        of_size, of_count = (rest + odds, rest) if is_high else (rest, rest - odds)
        loss[r] = size * of_size + y[r] * (of_count - log_size)
        first[r] = size * success - y[r] * failure
        v, skew = larger * smaller, failure - success
        second[r] = n * v
        third[r] = n * v * skew
        fourth[r] = n * v * (1.0 - 6.0 * v)
        fifth[r] = n * v * skew * (1.0 - 12.0 * v)


@numba.njit(**INLINED)
def _power_of_e(x):
    """The exponential function, infinite beyond the largest number of two."""
    exponent = _TO_EXPONENT * x
    return power_of_two(exponent) if exponent <= _LARGEST else np.inf


@numba.njit(**INLINED)
def poisson(eta, y, loss, first, second, third, fourth, fifth):
    r"""Counts of mean :math:`e^\eta`."""
    for r in range(LANES):
        rate = _power_of_e(eta[r])
        loss[r], first[r] = rate - y[r] * eta[r], rate - y[r]
        second[r], third[r], fourth[r], fifth[r] = rate, rate, rate, rate


@numba.njit(**INLINED)
def binomial(eta, y, total, loss, first, second, third, fourth, fifth):
    r"""Counts of successes of a total, with the log odds :math:`\eta`; bits have the total 1."""
    for r in range(LANES):
        x = eta[r]
        odds = _odds(x)
        larger = 1.0 / (1.0 + odds)
        smaller, is_positive = odds * larger, x > 0
        v, skew = larger * smaller, smaller - larger if is_positive else larger - smaller
        loss[r] = total * ((x if is_positive else 0.0) + natural_log(1.0 + odds)) - y[r] * x
        first[r] = total * (larger if is_positive else smaller) - y[r]
        second[r], third[r] = total * v, total * v * skew
        fourth[r], fifth[r] = total * v * (1.0 - 6.0 * v), total * v * skew * (1.0 - 12.0 * v)


@numba.njit(**INLINED)
def ratio_to_mean(eta, y):
    r"""The ratio :math:`y e^{-\eta}` of a positive number to its mean."""
    return y * _power_of_e(-eta)


@numba.njit(**INLINED)
def gamma(eta, y, shape, loss, first, second, third, fourth, fifth):
    r"""Positive numbers of mean :math:`e^\eta`, with the loss :math:`k (\eta + y e^{-\eta})`."""
    for r in range(LANES):
        ratio = shape * ratio_to_mean(eta[r], y[r])
        loss[r] = shape * eta[r] + ratio
        first[r] = shape - ratio
        second[r], third[r], fourth[r], fifth[r] = ratio, -ratio, ratio, -ratio


@numba.njit(**INLINED)
def gaussian(mean, y, scale, loss, first, second, third, fourth, fifth):
    r"""Real numbers, with the loss :math:`(\mu / 2 - y) \mu / s^2` in their mean :math:`\mu`."""
    precision = 1.0 / (scale * scale)
    for r in range(LANES):
        loss[r] = (0.5 * mean[r] - y[r]) * mean[r] * precision
        first[r], second[r] = (mean[r] - y[r]) * precision, precision
        third[r], fourth[r], fifth[r] = 0.0, 0.0, 0.0


@numba.njit(**INLINED)
def ising(eta, y, loss, first, second, third, fourth, fifth):
    r"""Spins of 1 and -1, with the loss :math:`\log \cosh \eta - y \eta`."""
    for r in range(LANES):
        x = eta[r]
        square = _odds(2.0 * x)
        inverse = 1.0 / (1.0 + square)
        size = (1.0 - square) * inverse
        mean = size if x > 0 else -size
        v = 4.0 * square * inverse * inverse
        loss[r] = (abs(x) - y[r] * x) + natural_log(0.5 + 0.5 * square)
        first[r], second[r], third[r] = mean - y[r], v, -2.0 * mean * v
        fourth[r], fifth[r] = v * (4.0 - 6.0 * v), -8.0 * mean * v * (1.0 - 3.0 * v)


@numba.njit(**INLINED)
def tweedie(eta, y, dispersion, power, loss, first, second, third, fourth, fifth):
    r"""Amounts of mean :math:`e^\eta` whose variance is a power of the mean.

    The loss is the sum of :math:`y e^{(1 - p) \eta} / (p - 1)` and
    :math:`e^{(2 - p) \eta} / (2 - p)`, over the dispersion.
    """
    down, up = 1.0 - power, 2.0 - power
    for r in range(LANES):
        # An amount of 0 has no such term, however large the power.
        falling = y[r] * _power_of_e(down * eta[r]) / dispersion if y[r] > 0 else 0.0
        rising = _power_of_e(up * eta[r]) / dispersion
        loss[r] = rising / up - falling / down
        first[r] = rising - falling
        falling, rising = -down * falling, up * rising
        second[r] = rising + falling
        falling, rising = down * falling, up * rising
        third[r] = rising + falling
        falling, rising = down * falling, up * rising
        fourth[r] = rising + falling
        fifth[r] = up * rising + down * falling


@numba.njit(**INLINED)
def zero_truncated_poisson(eta, y, loss, first, second, third, fourth, fifth):
    r"""Counts of at least 1: a Poisson count, given that it is not 0.

    The loss is the one of a count less the loss of a success under the complementary log-log link.
    """
    complementary_log_log(eta, _ONES, 1.0, loss, first, second, third, fourth, fifth)
    for r in range(LANES):
        rate = _power_of_e(eta[r])
        loss[r] = (rate - loss[r]) - y[r] * eta[r]
        first[r] = (rate - first[r]) - y[r]
        second[r] = rate - second[r]
        third[r] = rate - third[r]
        fourth[r] = rate - fourth[r]
        fifth[r] = rate - fifth[r]


@numba.njit(**INLINED)
def zero_inflated_poisson(eta, y, log_odds, log_rest, loss, first, second, third, fourth, fifth):
    r"""Counts of mean :math:`e^\eta` with additional zeros."""
    for r in range(LANES):
        x = eta[r]
        rate = _power_of_e(x) if y[r] > 0 else mean_of_zero(x)
        loss[r], first[r] = rate - y[r] * x, rate - y[r]
        second[r], third[r], fourth[r], fifth[r] = rate, rate, rate, rate
    inflate(y, log_odds, log_rest, loss, first, second, third, fourth, fifth)
