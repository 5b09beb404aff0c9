r"""Gradients in the parameters of laws, for all lanes, compiled by Numba.

Kernels call the function of a law by its address. Its inputs are linear predictors, and what
multiplies the derivatives of the log density, the curvature and the score of each lane,
``(4, lanes)``. Then come observations, the parameters of the feature, and an array to which the
gradients in them are added, with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import carray

from pyro_expfam.deq.cpu.beta_entries import digamma, scaled, shares
from pyro_expfam.deq.cpu.callbacks import address_of
from pyro_expfam.deq.cpu.compilation import INLINED, whole_registers
from pyro_expfam.deq.cpu.entry_derivatives import ratio_to_mean
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.families import (
    Beta,
    Family,
    Gamma,
    Gaussian,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Weibull,
)

_SMALLEST = 1e-300


def _of_cut_points(inputs, y, parameters, total, count):
    """Cut points of ordered answers, between minus infinity and infinity."""
    x, cuts, to = carray(inputs, (4, LANES)), carray(parameters, count), carray(total, count)
    observed = carray(y, LANES)
    last = count - 2
    for r in range(LANES):
        given = observed[r] if observed[r] > 0.0 else 0.0
        answer = np.int64(given if given < last else last)
        # A loss depends on the distances from the cut points alone.
        if answer < last:
            to[answer + 1] -= _of_side(x[0, r] - cuts[answer + 1], 1.0, x[1, r], x[2, r], x[3, r])
        if answer > 0:
            to[answer] -= _of_side(cuts[answer] - x[0, r], -1.0, x[1, r], x[2, r], x[3, r])
        if 0 < answer < last:
            of_gap = x[1, r] / math.expm1(cuts[answer + 1] - cuts[answer])
            to[answer + 1] += of_gap
            to[answer] -= of_gap


@numba.njit(**INLINED)
def _of_side(x, sign, of_density, of_curvature, of_score):
    """The gradient in the linear predictor through the loss at one cut point."""
    share, rest = shares(x)
    v = share * rest
    skew = v * (rest - share)
    return sign * (of_curvature * skew - of_density * share) - of_score * v


def _of_size(inputs, y, parameters, total, count):
    """The size of a negative binomial."""
    whole_registers()
    x, of_feature, to = carray(inputs, (4, LANES)), carray(parameters, count), carray(total, count)
    observed, size, log_size = carray(y, LANES), of_feature[0], of_feature[1]
    log, rest = digamma(size)
    is_small, sum_of = size < 10, 0.0
    for r in range(LANES):
        n, odds = observed[r] + size, x[0, r] - log_size
        success, failure = shares(odds)
        v = success * failure
        softplus = (odds if odds > 0 else 0.0) - natural_log(success if odds > 0 else failure)
        log_n, rest_n = digamma(n)
        # For a large size the logs would cancel.
        step = log_n - log if is_small else natural_log(1.0 + observed[r] / size)
        of_density = (step + (rest_n - rest) - softplus) + success - observed[r] / size * failure
        of_curvature = v - n * v * (failure - success) / size
        of_score = n * v / size - success
        sum_of += x[1, r] * of_density + x[2, r] * of_curvature + x[3, r] * of_score
    to[0] += sum_of


def _of_shape(inputs, y, parameters, total, count):
    """The shape of a gamma law."""
    whole_registers()
    x, to, shape = carray(inputs, (4, LANES)), carray(total, count), carray(parameters, count)[0]
    observed, (log, rest) = carray(y, LANES), digamma(shape)
    excess, sum_of = natural_log(shape) - log - rest, 0.0
    for r in range(LANES):
        ratio = ratio_to_mean(x[0, r], observed[r])
        of_density = excess + (natural_log(observed[r]) - x[0, r]) - (ratio - 1.0)
        sum_of += x[1, r] * of_density + x[2, r] * ratio + x[3, r] * (ratio - 1.0)
    to[0] += sum_of


def _of_power(inputs, y, parameters, total, count):
    """The shape of a Weibull law, whose observations are powers; it is the second parameter."""
    whole_registers()
    x, to, shape = carray(inputs, (4, LANES)), carray(total, count), carray(parameters, count)[1]
    observed, sum_of = carray(y, LANES), 0.0
    for r in range(LANES):
        power = observed[r] if observed[r] > _SMALLEST else _SMALLEST
        log, ratio = natural_log(power) / shape, ratio_to_mean(x[0, r], power)
        sum_of += x[1, r] * (1.0 / shape + log * (1.0 - ratio)) + (x[2, r] + x[3, r]) * log * ratio
    to[1] += sum_of


def _of_scale(inputs, y, parameters, total, count):
    """The scale of real numbers, which are in units of it."""
    whole_registers()
    x, to, scale = carray(inputs, (4, LANES)), carray(total, count), carray(parameters, count)[0]
    observed, sum_of = carray(y, LANES), 0.0
    for r in range(LANES):
        sum_of += x[1, r] * ((observed[r] - x[0, r]) * observed[r] - 1.0) - x[3, r] * observed[r]
    to[0] += sum_of / scale


def _of_precision(inputs, y, parameters, total, count):
    """The precision of proportions."""
    whole_registers()
    x, to = carray(inputs, (4, LANES)), carray(total, count)
    observed, precision = carray(y, LANES), carray(parameters, count)[0]
    log, rest = digamma(precision)
    whole, sum_of = log + rest, 0.0
    for r in range(LANES):
        p, q = shares(x[0, r])
        log_y, log_rest = natural_log(observed[r]), natural_log(1.0 - observed[r])
        a, b, d = precision * p, precision * q, q - p
        one, other = scaled(a), scaled(b)
        of_density = precision * (whole + p * log_y + q * log_rest) - one[1] - other[1]
        of_slope = q * (one[1] + one[2] - a * log_y + a * log_rest) - p * (other[1] + other[2])
        of_curvature = (
            q * d * (one[1] + one[2] - a * (log_y - log_rest))
            + q * q * (2.0 * one[2] + one[3])
            - p * d * (other[1] + other[2])
            + p * p * (2.0 * other[2] + other[3])
        )
        sum_of += x[1, r] * of_density + x[2, r] * of_curvature - x[3, r] * of_slope
    to[0] += sum_of / precision


OF_PARAMETERS: dict[type[Family], Callable[..., None]] = {
    Ordinal: _of_cut_points,
    NegativeBinomial: _of_size,
    Gamma: _of_shape,
    Weibull: _of_power,
    Gaussian: _of_scale,
    LogNormal: _of_scale,
    Beta: _of_precision,
}
"""The functions of gradients in parameters, by the family."""


@cache
def parameters_at(family: type[Family]) -> int:
    """The address of the function of gradients in the parameters of a family, or 0."""
    return address_of(OF_PARAMETERS[family], 4) if family in OF_PARAMETERS else 0
