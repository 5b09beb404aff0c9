"""The expected information of laws whose losses are not convex, for compiled functions.

A step of Fisher scoring needs a curvature that is not negative: the mean of the second derivative
of a loss over the observations of its law. A function takes what the functions of laws take, and
writes the information in the place of the second derivative. The formulas are those of
``information`` of the families.
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
from numba import carray

from pyro_expfam.deq.cpu.beta_entries import scaled, shares
from pyro_expfam.deq.cpu.callbacks import address_of
from pyro_expfam.deq.cpu.compilation import INLINED, whole_registers
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.link_derivatives import into_log_softplus, into_power_of_e, into_softplus
from pyro_expfam.deq.cpu.zero_inflated_entries import mean_of_zero

_TO_EXPONENT, _LARGEST = 1 / math.log(2), 1_000.0


@numba.njit(**INLINED)
def _power_of_e(x):
    """The exponential function up to a power of two of a thousand, which is finite."""
    exponent = _TO_EXPONENT * x
    return power_of_two(exponent if exponent < _LARGEST else _LARGEST)


def _of_beta(eta, y, parameters, found, count):
    whole_registers()
    x, precision = carray(eta, LANES), carray(parameters, count)[0]
    to = carray(found, (6, LANES))
    for r in range(LANES):
        p, q = shares(x[r])
        # The square of a shape times the trigamma function there.
        to[2, r] = q * (q * scaled(precision * p)[2]) + p * (p * scaled(precision * q)[2])


@numba.njit(**INLINED)
def _inflate(log_odds, log_rest, losses, scores, to):
    r"""Turns informations of counts into :math:`(1 - \pi) (J - q c s_0^2)`, with more zeros.

    Args:
        log_odds: the log odds against a zero for sure.
        log_rest: the log of :math:`1 - \pi`.
        losses: the losses of zeros that are counted, whose probability is ``q``, ``(lanes,)``.
        scores: :math:`s_0`, their slopes.
        to: where the informations :math:`J` lie, ``(6, lanes)``.
    """
    rest = math.exp(log_rest)
    for r in range(LANES):
        chance, certain = power_of_two(-_TO_EXPONENT * losses[r]), shares(log_odds - losses[r])[1]
        # One score at a time: the square may overflow where the probability vanishes.
        lost, information = (chance * certain * scores[r]) * scores[r], to[2, r]
        to[2, r] = rest * (information - lost) if information > lost else 0.0


def _of_zero_inflated_poisson(eta, y, parameters, found, count):
    whole_registers()
    x, of_feature, to = carray(eta, LANES), carray(parameters, count), carray(found, (6, LANES))
    means = np.empty(LANES)
    for r in range(LANES):
        means[r] = mean_of_zero(x[r])
        to[2, r] = _power_of_e(x[r])
    _inflate(of_feature[1], of_feature[2], means, means, to)


def _of_zero_inflated_negative_binomial(eta, y, parameters, found, count):
    whole_registers()
    x, of_feature, to = carray(eta, LANES), carray(parameters, count), carray(found, (6, LANES))
    size, log_size, losses = of_feature[1], of_feature[2], np.empty(LANES)
    for r in range(LANES):
        odds = x[r] - log_size
        success, failure = shares(odds)
        # The softplus of the log odds, with the logarithm of a share that is not small.
        larger = success if odds > 0 else failure
        losses[r] = size * ((odds if odds > 0 else 0.0) - natural_log(larger))
        to[2, r] = size * success
    _inflate(of_feature[3], of_feature[4], losses, to[2].copy(), to)


@numba.njit(**INLINED)
def _constant_along(information, slopes, to):
    """The information in the linear predictor, where in what a link gives it is a constant."""
    for r in range(LANES):
        to[2, r] = slopes[0, r] * (slopes[0, r] * information)


@numba.njit(**INLINED)
def _along(slopes, to):
    """Turns informations in what a link gives into those in the linear predictor."""
    for r in range(LANES):
        # A large slope meets a small information: their product first, so that none overflows.
        to[2, r] = slopes[0, r] * (slopes[0, r] * to[2, r])


def _of_negative_binomial_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, of_feature, to = carray(eta, LANES), carray(parameters, count), carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    for r in range(LANES):
        to[2, r] = of_feature[0] * shares(own[r] - of_feature[1])[0]
    _along(slopes, to)


def _of_gamma_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, shape, to = carray(eta, LANES), carray(parameters, count)[0], carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    _constant_along(shape, slopes, to)


def _of_tweedie_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, of_feature, to = carray(eta, LANES), carray(parameters, count), carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_log_softplus(x, own, slopes)
    for r in range(LANES):
        to[2, r] = _power_of_e((2.0 - of_feature[1]) * own[r]) / of_feature[0]
    _along(slopes, to)


def _of_gaussian_softplus(eta, y, parameters, found, count):
    whole_registers()
    x, scale, to = carray(eta, LANES), carray(parameters, count)[0], carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_softplus(x, own, slopes)
    _constant_along(1.0 / (scale * scale), slopes, to)


def _of_gaussian_log(eta, y, parameters, found, count):
    whole_registers()
    x, scale, to = carray(eta, LANES), carray(parameters, count)[0], carray(found, (6, LANES))
    own, slopes = np.empty(LANES), np.empty((5, LANES))
    into_power_of_e(x, own, slopes)
    _constant_along(1.0 / (scale * scale), slopes, to)


INFORMATIONS = {
    "beta": _of_beta,
    "zero_inflated_poisson": _of_zero_inflated_poisson,
    "zero_inflated_negative_binomial": _of_zero_inflated_negative_binomial,
    "negative_binomial_softplus": _of_negative_binomial_softplus,
    "gamma_softplus": _of_gamma_softplus,
    "tweedie_softplus": _of_tweedie_softplus,
    "gaussian_softplus": _of_gaussian_softplus,
    "gaussian_log": _of_gaussian_log,
}
"""The functions of expected informations, by the name of the activation."""


@cache
def information_at(name: str) -> int:
    """The address of the function of the expected information of a law."""
    return address_of(INFORMATIONS[name], 4)
