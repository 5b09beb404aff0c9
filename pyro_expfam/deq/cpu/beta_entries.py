r"""Losses of proportions and functions of the gamma function, for compiled functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.polynomial import polynomial
from pyro_expfam.families.continuous_bernoulli import bernoulli_number

_TO_EXPONENT = 1 / math.log(2)
_BERNOULLI = tuple(float(bernoulli_number(2 * k)) for k in range(1, 11))


def _series(factor: Callable[[int], float]) -> Any:
    """A polynomial whose coefficients are even Bernoulli numbers times factors of twice a place."""
    return polynomial([b * factor(2 * k) for k, b in enumerate(_BERNOULLI, 1)])


_of_log_gamma = _series(lambda n: 1 / (n * (n - 1)))
_of_digamma = _series(lambda n: -1 / n)
_of_second = _series(lambda n: 1.0)
_of_third = _series(lambda n: -(n + 1))
_of_fourth = _series(lambda n: (n + 1) * (n + 2))
_of_fifth = _series(lambda n: -(n + 1) * (n + 2) * (n + 3))
_HALF_LOG = 0.5 * math.log(2 * math.pi)
_SHIFT = 10


@numba.njit(**INLINED)
def log_gamma(x):
    r"""The log of the gamma function at a number of at least 1, and five derivatives.

    They come from Stirling's series at a number of at least 10, by the recurrence below it.
    """
    is_small = x < _SHIFT
    product, first, second, third, fourth, fifth = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(_SHIFT):
        r = 1.0 / (x + k)
        product *= x + k if is_small else 1.0
        r = r if is_small else 0.0
        square = r * r
        first -= r
        second += square
        third -= 2 * square * r
        fourth += 6 * square * square
        fifth -= 24 * square * square * r
    at = x + _SHIFT if is_small else x
    r = 1.0 / at
    h = r * r
    log = natural_log(at)
    value = (at - 0.5) * log - at + _HALF_LOG + r * _of_log_gamma(h) - natural_log(product)
    first += log - 0.5 * r + h * _of_digamma(h)
    second += r + h * (0.5 + r * _of_second(h))
    third += h * (-1.0 - r + h * _of_third(h))
    fourth += r * h * (2.0 + 3.0 * r + h * _of_fourth(h))
    fifth += h * h * (-6.0 - 12.0 * r + h * _of_fifth(h))
    return value, first, second, third, fourth, fifth


@numba.njit(**INLINED)
def scaled(x):
    """The log of the gamma function at a positive number, and derivatives times powers of it."""
    value, first, second, third, fourth, fifth = log_gamma(x + 1.0)
    square = x * x
    return (
        value - natural_log(x),
        x * first - 1.0,
        square * second + 1.0,
        square * x * third - 2.0,
        square * square * fourth + 6.0,
        square * square * x * fifth - 24.0,
    )


@numba.njit(**INLINED)
def composed(g1, g2, g3, g4, g5, a1, a2, a3, a4, a5):
    """The derivatives of a function of a function, by the formula of Faa di Bruno."""
    square = a1 * a1
    return (
        g1 * a1,
        g2 * square + g1 * a2,
        g3 * square * a1 + 3 * g2 * a1 * a2 + g1 * a3,
        g4 * square * square + 6 * g3 * square * a2 + g2 * (3 * a2 * a2 + 4 * a1 * a3) + g1 * a4,
        g5 * square * square * a1
        + 10 * g4 * square * a1 * a2
        + g3 * (10 * square * a3 + 15 * a1 * a2 * a2)
        + g2 * (10 * a2 * a3 + 5 * a1 * a4)
        + g1 * a5,
    )


@numba.njit(**INLINED)
def digamma(x):
    """The digamma function as two terms, the log of a number of at least 10 and the rest.

    The number is the argument itself where that is at least 10.
    """
    is_small = x < _SHIFT
    y = x if is_small else 1.0
    numerator, product = 0.0, 1.0
    for k in range(_SHIFT):
        # The sum of the reciprocals so far is their quotient.
        numerator = numerator * (y + k) + product
        product *= y + k
    at = x + _SHIFT if is_small else x
    r = 1.0 / at
    h = r * r
    rest = h * _of_digamma(h) - 0.5 * r
    return natural_log(at), rest - numerator / product if is_small else rest


@numba.njit(**INLINED)
def shares(x):
    """The logistic function at a number, and one minus it."""
    odds = power_of_two(-_TO_EXPONENT * abs(x))
    larger = 1.0 / (1.0 + odds)
    smaller = odds * larger
    return (larger, smaller) if x > 0 else (smaller, larger)


@numba.njit(**INLINED)
def beta(eta, y, precision, constant, loss, first, second, third, fourth, fifth):
    r"""Proportions with the shapes :math:`a = \phi \mu` and :math:`\phi - a`.

    The loss is minus the log density. The constant is :math:`\log \Gamma(\phi)`.
    """
    for r in range(LANES):
        p, q = shares(eta[r])
        log_y, log_rest = natural_log(y[r]), natural_log(1.0 - y[r])
        a, b, d = precision * p, precision * q, q - p
        v = p * q
        one, other = scaled(a), scaled(b)
        # The derivatives of the shapes over the shapes, which are q and -p times these.
        k3, k4 = 1.0 - 6.0 * v, d * (1.0 - 12.0 * v)
        k5 = 1.0 - 30.0 * v + 120.0 * v * v
        linear = a * (log_y - log_rest)
        f = composed(
            one[1] - linear, one[2], one[3], one[4], one[5], q, q * d, q * k3, q * k4, q * k5
        )
        g = composed(
            other[1], other[2], other[3], other[4], other[5], -p, -p * d, -p * k3, -p * k4, -p * k5
        )
        of_shapes = one[0] + other[0] - constant - linear
        loss[r] = of_shapes - (precision - 1.0) * log_rest + log_y
        first[r], second[r], third[r] = f[0] + g[0], f[1] + g[1], f[2] + g[2]
        fourth[r], fifth[r] = f[3] + g[3], f[4] + g[4]
