"""Means and variances that are functions of the natural parameter alone, compiled by Numba."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, whole_registers
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.families.continuous_bernoulli import series_coefficients

LOGISTIC, EXPONENTIAL, CONTINUOUS_BERNOULLI, IDENTITY = 0, 1, 2, 3

KINDS = {
    "logistic": LOGISTIC,
    "exponential": EXPONENTIAL,
    "continuous_bernoulli": CONTINUOUS_BERNOULLI,
    "identity": IDENTITY,
}
"""The kinds of activations by name."""

_TO_NATURAL = math.log(2)


class SeparateLaw(NamedTuple):
    """The activation of a table.

    Attributes:
        kind: which activation it is.
        largest: the exponent beyond which a rate is infinite.
        centre: what is subtracted from a logistic mean.
    """

    kind: Any
    largest: Any
    centre: Any


@numba.njit(**OPTIONS)
def separate_moments(law, exponent, count, mean, variance):
    """Means and variances of a group of features, before the scales of the design.

    Args:
        law: the activation.
        exponent: exponents of two, ``(count or more, lanes)``.
        count: the number of features.
        mean: where means go, in the shape of the exponents.
        variance: where variances go.
    """
    whole_registers()
    # As vectors: a loop over the lanes of each feature costs more.
    size = count * exponent.shape[1]
    exponent, mean, variance = exponent.ravel(), mean.ravel(), variance.ravel()
    if law.kind == EXPONENTIAL:
        _exponential(law, exponent, size, mean, variance)
    elif law.kind == LOGISTIC:
        _logistic(law, exponent, size, mean, variance)
    elif law.kind == IDENTITY:
        for r in range(size):
            mean[r], variance[r] = exponent[r], exponent.dtype.type(1)
    else:
        _continuous_bernoulli(exponent, size, mean, variance)


@numba.njit(**INLINED)
def _exponential(law, exponent, size, mean, variance):
    for r in range(size):
        rate = power_of_two(exponent[r])
        rate = rate if exponent[r] <= law.largest else exponent[r] * np.inf
        mean[r], variance[r] = rate, rate


@numba.njit(**INLINED)
def _logistic(law, exponent, size, mean, variance):
    one = exponent.dtype.type(1)
    for r in range(size):
        odds = power_of_two(exponent[r])
        likelihood = one / (one + odds)
        mean[r] = likelihood - law.centre
        # The odds are multiplied first: where they are largest, the square of the other factor
        # underflows.
        variance[r] = odds * likelihood * likelihood


_even_32, _even_64 = (
    polynomial(series_coefficients(1, float(np.finfo(dtype).eps)))
    for dtype in (np.float32, np.float64)
)


def _even(square: Any) -> Any:
    """The mean less one half over the natural parameter, near zero."""
    raise NotImplementedError("only for compiled functions")


@overload(_even, jit_options=INLINED)
def _even_in_dtype(square):
    series = {numba.float32: _even_32, numba.float64: _even_64}[square]
    return lambda square: series(square)


@numba.njit(**INLINED)
def _continuous_bernoulli(exponent, size, mean, variance):
    r"""The mean and the variance of a continuous Bernoulli law.

    With :math:`u = |\eta|`, :math:`r = 1 / u` and :math:`w = 1 / (e^u - 1)`, the mean is
    :math:`r - w` away from its likelier end, and the variance is :math:`r^2 - w - w^2`. Both take
    one exponential and one division. Near zero there is the series of the family.
    """
    number = exponent.dtype.type
    one, half, quarter, two = number(1), number(0.5), number(0.25), number(2)
    to_natural = number(_TO_NATURAL)
    for r in range(size):
        eta = to_natural * exponent[r]
        square = eta * eta
        even = _even(square if square < one else one)
        u = abs(eta)
        power = power_of_two(-abs(exponent[r]))
        rest = one - power
        inverse = one / (u * rest)
        reciprocal = rest * inverse
        w = power * u * inverse
        upper = half - (reciprocal - w)
        far = half + (upper if eta > 0 else -upper)
        is_near = square < one
        mean[r] = half + eta * even if is_near else far
        of_series = quarter - even * (two + square * even)
        variance[r] = of_series if is_near else reciprocal * reciprocal - w * (one + w)
