r"""Gradients in the parameters of laws, for all lanes, compiled by Numba.

Kernels call the function of a law by its address. Its inputs are linear predictors, and what
multiplies the derivatives of the log density, the curvature, the score, the third and the fourth
derivative of the loss of each lane, ``(6, lanes)``. Then come observations, the parameters of the
feature, and an array to which the gradients in them are added, with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import carray

from pyro_expfam.deq.activation import Learnt
from pyro_expfam.deq.cpu.beta_entries import composed, digamma, scaled, shares
from pyro_expfam.deq.cpu.callbacks import address_of
from pyro_expfam.deq.cpu.compilation import INLINED, whole_registers
from pyro_expfam.deq.cpu.entry_derivatives import ratio_to_mean
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.link_derivatives import inputs_of_own, into_log_softplus
from pyro_expfam.deq.cpu.normal_effect_entries import with_normal_effect
from pyro_expfam.deq.cpu.zero_inflated_entries import mean_of_zero, of_counted

_SMALLEST, _TO_EXPONENT = 1e-300, 1 / math.log(2)


@numba.njit(**INLINED)
def _chance(loss):
    """The probability of what has a loss."""
    return power_of_two(-_TO_EXPONENT * loss)


def _of_cut_points(inputs, y, parameters, total, count):
    """Cut points of ordered answers, between minus infinity and infinity."""
    x, cuts, to = carray(inputs, (6, LANES)), carray(parameters, count), carray(total, count)
    observed = carray(y, LANES)
    last = count - 2
    for r in range(LANES):
        given = observed[r] if observed[r] > 0.0 else 0.0
        answer = np.int64(given if given < last else last)
        # A loss depends on the distances from the cut points alone.
        if answer < last:
            to[answer + 1] -= _of_side(x, r, x[0, r] - cuts[answer + 1], 1.0)
        if answer > 0:
            to[answer] -= _of_side(x, r, cuts[answer] - x[0, r], -1.0)
        if 0 < answer < last:
            of_gap = x[1, r] / math.expm1(cuts[answer + 1] - cuts[answer])
            to[answer + 1] += of_gap
            to[answer] -= of_gap


@numba.njit(**INLINED)
def _of_side(inputs, r, x, sign):
    """The gradient in the linear predictor through the loss at one cut point."""
    share, rest = shares(x)
    v = share * rest
    skew = v * (rest - share)
    odd = inputs[2, r] * skew - inputs[1, r] * share + inputs[5, r] * skew * (1.0 - 12.0 * v)
    return sign * odd - inputs[3, r] * v + inputs[4, r] * v * (1.0 - 6.0 * v)


@numba.njit(**INLINED)
def _slopes_in_size(eta, y, size, log_size, log, rest, is_small):
    """The slopes in the size of a negative binomial, of a lane.

    These are the slopes of the log density, the score, and the second, third and fourth derivative
    of the loss.

    Args:
        eta: the linear predictor.
        y: the count.
        size: the size.
        log_size: its log.
        log: the first term of its digamma function.
        rest: the second.
        is_small: whether the size is below 10; for a larger one logs would cancel.
    """
    n, odds = y + size, eta - log_size
    success, failure = shares(odds)
    v = success * failure
    softplus = (odds if odds > 0 else 0.0) - natural_log(success if odds > 0 else failure)
    log_n, rest_n = digamma(n)
    step = log_n - log if is_small else natural_log(1.0 + y / size)
    of_density = (step + (rest_n - rest) - softplus) + success - y / size * failure
    skew = failure - success
    third, fourth, fifth = v * skew, v * (1.0 - 6.0 * v), v * skew * (1.0 - 12.0 * v)
    trials = n / size
    return (
        of_density,
        trials * v - success,
        v - trials * third,
        third - trials * fourth,
        fourth - trials * fifth,
    )


@numba.njit(**INLINED)
def _sum_of_size(x, observed, size, log_size):
    """The gradient in the size of a negative binomial, of all lanes."""
    log, rest = digamma(size)
    is_small, sum_of = size < 10, 0.0
    for r in range(LANES):
        of = _slopes_in_size(x[0, r], observed[r], size, log_size, log, rest, is_small)
        sum_of += x[1, r] * of[0] + x[3, r] * of[1]
        sum_of += x[2, r] * of[2] + x[4, r] * of[3] + x[5, r] * of[4]
    return sum_of


def _of_size(inputs, y, parameters, total, count):
    """The size of a negative binomial."""
    whole_registers()
    x, of_feature, to = carray(inputs, (6, LANES)), carray(parameters, count), carray(total, count)
    to[0] += _sum_of_size(x, carray(y, LANES), of_feature[0], of_feature[1])


def _of_size_under_softplus(inputs, y, parameters, total, count):
    """The size of a negative binomial whose mean is the softplus of the linear predictor."""
    whole_registers()
    x, of_feature, to = carray(inputs, (6, LANES)), carray(parameters, count), carray(total, count)
    own, slopes, of_own = np.empty(LANES), np.empty((5, LANES)), np.empty((6, LANES))
    into_log_softplus(x[0], own, slopes)
    inputs_of_own(x, own, slopes, of_own)
    to[0] += _sum_of_size(of_own, carray(y, LANES), of_feature[0], of_feature[1])


@numba.njit(**INLINED)
def _along_odds(inputs, r, found):
    """What reaches the log odds of a zero for sure, from the slopes of four derivatives in it."""
    return (
        inputs[2, r] * found[1]
        - inputs[3, r] * found[0]
        + inputs[4, r] * found[2]
        + inputs[5, r] * found[3]
    )


def _of_zero_probability(inputs, y, parameters, total, count):
    """The probability of additional zeros among Poisson counts."""
    whole_registers()
    x, of_feature, to = carray(inputs, (6, LANES)), carray(parameters, count), carray(total, count)
    observed, zeros, log_odds = carray(y, LANES), of_feature[0], of_feature[1]
    to_density, to_odds = 0.0, 0.0
    for r in range(LANES):
        m = mean_of_zero(x[0, r])
        counted, certain = shares(log_odds - m)
        # The loss knows the odds by their distance from the loss of a counted zero alone.
        g = of_counted(counted, certain)
        slopes = composed(g[1], g[2], g[3], g[4], 0.0, m, m, m, m, m)
        positive = 1.0 - _chance(m)
        is_zero = observed[r] == 0
        to_density += x[1, r] * (positive * certain / zeros if is_zero else -1.0 / (1.0 - zeros))
        to_odds += _along_odds(x, r, slopes) if is_zero else 0.0
    to[0] += to_density + to_odds / (zeros * (1.0 - zeros))


def _of_zero_probability_and_size(inputs, y, parameters, total, count):
    """The probability of additional zeros among negative binomial counts, and their size."""
    whole_registers()
    x, of_feature, to = carray(inputs, (6, LANES)), carray(parameters, count), carray(total, count)
    observed, zeros, log_odds = carray(y, LANES), of_feature[0], of_feature[3]
    size, log_size = of_feature[1], of_feature[2]
    log, rest = digamma(size)
    is_small, to_density, to_odds, to_size = size < 10, 0.0, 0.0, 0.0
    for r in range(LANES):
        of = _slopes_in_size(x[0, r], observed[r], size, log_size, log, rest, is_small)
        success, failure = shares(x[0, r] - log_size)
        # The loss of a counted zero, and its derivatives.
        m = -size * natural_log(failure)
        v, skew = success * failure, failure - success
        m1, m2, m3, m4 = size * success, size * v, size * v * skew, size * v * (1.0 - 6.0 * v)
        counted, certain = shares(log_odds - m)
        g = of_counted(counted, certain)
        k = composed(g[1], g[2], g[3], g[4], 0.0, m1, m2, m3, m4, 0.0)
        positive = 1.0 - _chance(m)
        is_zero = observed[r] == 0
        to_density += x[1, r] * (positive * certain / zeros if is_zero else -1.0 / (1.0 - zeros))
        to_odds += _along_odds(x, r, k) if is_zero else 0.0
        # The loss of a zero has the slope in the size of a counted one, times the first derivative.
        n0, n1, n2, n3, n4 = -of[0], -of[1], of[2], of[3], of[4]
        first = counted * n1 + k[0] * n0
        second = counted * n2 + 2.0 * k[0] * n1 + k[1] * n0
        third = counted * n3 + 3.0 * (k[0] * n2 + k[1] * n1) + k[2] * n0
        fourth = counted * n4 + 4.0 * (k[0] * n3 + k[2] * n1) + 6.0 * k[1] * n2 + k[3] * n0
        to_size += x[1, r] * (-counted * n0 if is_zero else of[0])
        to_size += x[3, r] * (-first if is_zero else of[1])
        to_size += x[2, r] * (second if is_zero else of[2])
        to_size += x[4, r] * (third if is_zero else of[3])
        to_size += x[5, r] * (fourth if is_zero else of[4])
    to[0] += to_density + to_odds / (zeros * (1.0 - zeros))
    to[1] += to_size


@numba.njit(**INLINED)
def _sum_of_shape(x, observed, shape):
    """The gradient in the shape of a gamma law, of all lanes."""
    log, rest = digamma(shape)
    excess, sum_of = natural_log(shape) - log - rest, 0.0
    for r in range(LANES):
        ratio = ratio_to_mean(x[0, r], observed[r])
        of_density = excess + (natural_log(observed[r]) - x[0, r]) - (ratio - 1.0)
        of_ratio = x[2, r] + x[3, r] - x[4, r] + x[5, r]
        sum_of += x[1, r] * of_density - x[3, r] + of_ratio * ratio
    return sum_of


def _of_shape(inputs, y, parameters, total, count):
    """The shape of a gamma law."""
    whole_registers()
    x, to, shape = carray(inputs, (6, LANES)), carray(total, count), carray(parameters, count)[0]
    to[0] += _sum_of_shape(x, carray(y, LANES), shape)


def _of_shape_under_softplus(inputs, y, parameters, total, count):
    """The shape of a gamma law whose mean is the softplus of the linear predictor."""
    whole_registers()
    x, to, shape = carray(inputs, (6, LANES)), carray(total, count), carray(parameters, count)[0]
    own, slopes, of_own = np.empty(LANES), np.empty((5, LANES)), np.empty((6, LANES))
    into_log_softplus(x[0], own, slopes)
    inputs_of_own(x, own, slopes, of_own)
    to[0] += _sum_of_shape(of_own, carray(y, LANES), shape)


def _of_power(inputs, y, parameters, total, count):
    """The shape of a Weibull law, whose observations are powers; it is the second parameter."""
    whole_registers()
    x, to, shape = carray(inputs, (6, LANES)), carray(total, count), carray(parameters, count)[1]
    observed, sum_of = carray(y, LANES), 0.0
    for r in range(LANES):
        power = observed[r] if observed[r] > _SMALLEST else _SMALLEST
        log, ratio = natural_log(power) / shape, ratio_to_mean(x[0, r], power)
        of_ratio = x[2, r] + x[3, r] - x[4, r] + x[5, r]
        sum_of += x[1, r] * (1.0 / shape + log * (1.0 - ratio)) + of_ratio * log * ratio
    to[1] += sum_of


def _of_scale(inputs, y, parameters, total, count):
    """The scale of real numbers, which are in units of it."""
    whole_registers()
    x, to, scale = carray(inputs, (6, LANES)), carray(total, count), carray(parameters, count)[0]
    observed, sum_of = carray(y, LANES), 0.0
    for r in range(LANES):
        sum_of += x[1, r] * ((observed[r] - x[0, r]) * observed[r] - 1.0) - x[3, r] * observed[r]
    to[0] += sum_of / scale


def _of_effect(inputs, y, parameters, total, count):
    """The scale of an effect in the log rate of counts, by the heat equation of the density."""
    whole_registers()
    x, to, scale = carray(inputs, (6, LANES)), carray(total, count), carray(parameters, count)[0]
    d, sum_of = np.empty((7, LANES)), 0.0
    with_normal_effect(x[0], carray(y, LANES), scale, d)
    for r in range(LANES):
        one, two, three, four = d[1, r], d[2, r], d[3, r], d[4, r]
        sum_of -= x[1, r] * (two - one * one) + x[3, r] * (three - 2.0 * one * two)
        sum_of += x[2, r] * (four - 2.0 * (one * three + two * two))
        sum_of += x[4, r] * (d[5, r] - 2.0 * one * four - 6.0 * two * three)
        of_fourth = d[6, r] - 2.0 * one * d[5, r] - 8.0 * two * four - 6.0 * three * three
        sum_of += x[5, r] * of_fourth
    to[0] += scale * sum_of


def _of_precision(inputs, y, parameters, total, count):
    """The precision of proportions."""
    whole_registers()
    x, to = carray(inputs, (6, LANES)), carray(total, count)
    observed, precision = carray(y, LANES), carray(parameters, count)[0]
    log, rest = digamma(precision)
    whole, sum_of = log + rest, 0.0
    for r in range(LANES):
        p, q = shares(x[0, r])
        log_y, log_rest = natural_log(observed[r]), natural_log(1.0 - observed[r])
        a, b, d = precision * p, precision * q, q - p
        one, other = scaled(a), scaled(b)
        of_density = precision * (whole + p * log_y + q * log_rest) - one[1] - other[1]
        v, linear = p * q, a * (log_y - log_rest)
        k3, k4 = 1.0 - 6.0 * v, d * (1.0 - 12.0 * v)
        # With x the shape, x times the slope of x^k f(x) is x^k (k f + x f').
        f = composed(
            one[1] + one[2] - linear,
            2.0 * one[2] + one[3],
            3.0 * one[3] + one[4],
            4.0 * one[4] + one[5],
            0.0,
            q,
            q * d,
            q * k3,
            q * k4,
            0.0,
        )
        g = composed(
            other[1] + other[2],
            2.0 * other[2] + other[3],
            3.0 * other[3] + other[4],
            4.0 * other[4] + other[5],
            0.0,
            -p,
            -p * d,
            -p * k3,
            -p * k4,
            0.0,
        )
        sum_of += x[1, r] * of_density - x[3, r] * (f[0] + g[0]) + x[2, r] * (f[1] + g[1])
        sum_of += x[4, r] * (f[2] + g[2]) + x[5, r] * (f[3] + g[3])
    to[0] += sum_of / precision


OF_PARAMETERS: dict[Learnt, Callable[..., None]] = {
    "cut_points": _of_cut_points,
    "size": _of_size,
    "shape": _of_shape,
    "power": _of_power,
    "scale": _of_scale,
    "precision": _of_precision,
    "effect": _of_effect,
    "zero_probability": _of_zero_probability,
    "zero_probability_and_size": _of_zero_probability_and_size,
    "size_of_softplus": _of_size_under_softplus,
    "shape_of_softplus": _of_shape_under_softplus,
}
"""The functions of gradients in parameters, by what the parameter is."""


@cache
def parameters_at(learnt: Learnt | None) -> int:
    """The address of the function of gradients in the parameters of a law, or 0."""
    return 0 if learnt is None else address_of(OF_PARAMETERS[learnt], 4)
