"""The cumulants of the families, entry by entry, as functions of a kernel."""

import torch
import triton
import triton.language as tl

from pyro_expfam.families.continuous_bernoulli import series_coefficients

_EPS = torch.finfo(torch.float32).eps

TERMS = tl.constexpr(max(len(series_coefficients(order, _EPS)) for order in (0, 1, 3)))


def _padded(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """The coefficients of a polynomial of the common degree, highest power first."""
    missing = TERMS.value - len(coefficients)
    return (0.0,) * missing + coefficients[::-1]


_LOG_PARTITION = tl.constexpr(_padded(series_coefficients(0, _EPS)))
_MEAN = tl.constexpr(_padded(series_coefficients(1, _EPS)))
_THIRD = tl.constexpr(_padded(series_coefficients(3, _EPS)))


@triton.jit
def mean_and_variance(eta, size, slope, shift, ACTIVATION: tl.constexpr):
    """The first two cumulants of an entry."""
    if ACTIVATION == "identity":
        return eta, tl.full(eta.shape, 1.0, eta.dtype)
    elif ACTIVATION == "exponential":
        rate = tl.exp(eta)
        return rate, rate
    elif ACTIVATION == "logistic":
        likelier, rarer = _odds(slope * eta)
        mean = size * tl.where(eta >= 0, likelier, rarer) - shift
        return mean, slope * size * likelier * rarer
    else:
        return _continuous_bernoulli(eta)


@triton.jit
def log_partition(eta, size, slope, shift, constant, ACTIVATION: tl.constexpr):
    """The log-partition of an entry."""
    if ACTIVATION == "identity":
        return 0.5 * eta * eta
    elif ACTIVATION == "exponential":
        return tl.exp(eta)
    elif ACTIVATION == "logistic":
        log_odds = slope * eta
        odds = tl.exp(-tl.abs(log_odds))
        # The series where 1 + odds has lost the odds' digits.
        rest = tl.where(odds < 1e-3, odds * (1 - odds * (0.5 - odds / 3)), tl.log(1 + odds))
        return size / slope * (tl.maximum(log_odds, 0.0) + rest) - shift * eta + constant
    else:
        return _continuous_bernoulli_log_partition(eta)


@triton.jit
def third_cumulant(eta, size, slope, shift, ACTIVATION: tl.constexpr):
    """The third cumulant of an entry."""
    if ACTIVATION == "identity":
        return tl.zeros(eta.shape, eta.dtype)
    elif ACTIVATION == "exponential":
        return tl.exp(eta)
    elif ACTIVATION == "logistic":
        likelier, rarer = _odds(slope * eta)
        # At negative log odds the rarer outcome is 1, which skews to the right.
        skewness = tl.where(eta >= 0, rarer - likelier, likelier - rarer)
        return size * slope * slope * likelier * rarer * skewness
    else:
        return _continuous_bernoulli_third_cumulant(eta)


@triton.jit
def _odds(log_odds):
    """The probabilities of the likelier and of the rarer of two outcomes."""
    odds = tl.exp(-tl.abs(log_odds))
    likelier = 1 / (1 + odds)
    return likelier, odds * likelier


@triton.jit
def _polynomial(x, COEFFICIENTS: tl.constexpr):
    value = tl.zeros(x.shape, x.dtype)
    for k in tl.static_range(TERMS):
        value = value * x + COEFFICIENTS[k]
    return value


@triton.jit
def _tail_terms(size):
    # Below 1 the series is used, and this value is discarded.
    size = tl.maximum(size, 1.0)
    return 1 / size, 1 / (tl.exp(size) - 1)


@triton.jit
def _continuous_bernoulli(eta):
    square = eta * eta
    even = _polynomial(square, _MEAN)
    reciprocal, exponential = _tail_terms(tl.abs(eta))
    tail = reciprocal - exponential
    near = square < 1
    mean = tl.where(near, 0.5 + eta * even, tl.where(eta > 0, 1 - tail, tail))
    # The mean solves a Riccati equation, which gives the variance from its series.
    near_variance = 0.25 - even * (2 + square * even)
    tail_variance = reciprocal * reciprocal - exponential * (1 + exponential)
    return mean, tl.where(near, near_variance, tail_variance)


@triton.jit
def _continuous_bernoulli_log_partition(eta):
    size = tl.abs(eta)
    near = eta * (0.5 + eta * _polynomial(eta * eta, _LOG_PARTITION))
    reciprocal, _ = _tail_terms(size)
    tail = tl.maximum(eta, 0.0) + tl.log((1 - tl.exp(-size)) * reciprocal)
    return tl.where(size < 1, near, tail)


@triton.jit
def _continuous_bernoulli_third_cumulant(eta):
    near = eta * _polynomial(eta * eta, _THIRD)
    reciprocal, exponential = _tail_terms(tl.abs(eta))
    power = 2 * reciprocal * reciprocal * reciprocal
    tail = power - exponential * (1 + exponential) * (1 + 2 * exponential)
    return tl.where(eta * eta < 9, near, tl.where(eta > 0, -tail, tail))
