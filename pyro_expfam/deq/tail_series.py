"""Coefficients of the series that kernels sum for probabilities close to 0 and 1."""

from __future__ import annotations

import math
from fractions import Fraction

MIDDLE = 4.0
"""The number that the variable of the polynomial below maps to 0."""

MILLS_POLYNOMIAL = (
    1.8048571559157687,
    -1.1822045015192792,
    0.40195670380623527,
    0.06751792792276659,
    -0.13822449147915367,
    0.03370366765351547,
    0.031656527489777486,
    -0.02080045431159896,
    -0.004488589890605869,
    0.007961411150203152,
    -0.00037358596952200143,
    -0.00248579224219354,
    0.0005948559918031812,
    0.0006654957847153117,
    -0.0002892918027857523,
    -0.0001503312905080569,
    0.00010488754870985674,
    2.5598410718239395e-05,
    -3.170859414881326e-05,
    -1.4565187827615587e-06,
    8.114172816411628e-06,
    -1.1267471643798478e-06,
    -1.6905634592427578e-06,
    5.605918542801535e-07,
    2.5569143808187903e-07,
    -1.3529413081994808e-07,
    -2.071114283078507e-08,
    1.4804154022563544e-08,
)
r"""The coefficients of :math:`(a + 4)\,(m(a) - a)` for :math:`a \ge 0`, lowest power first.

Here :math:`m(a) = \varphi(a) / \Phi(-a)` is the inverse of Mills' ratio, and the variable is
:math:`(a - 4) / (a + 4)`, between -1 and 1. They interpolate at 60 nodes of Chebyshev, in 50
digits; terms below 3e-17 of a Chebyshev polynomial are left out. The relative error is about one
rounding of float64. Without the difference :math:`m - a` the curvature :math:`m (m - a)` would
lose its digits in the tail.
"""


def _share_series(num_terms: int) -> tuple[float, ...]:
    numbers = [Fraction(1)]
    for n in range(1, 2 * num_terms + 1):
        total = sum((math.comb(n + 1, k) * numbers[k] for k in range(n)), Fraction(0))
        numbers.append(-total / (n + 1))
    return tuple(float(numbers[2 * k] / math.factorial(2 * k)) for k in range(1, num_terms + 1))


SHARE_SERIES = _share_series(10)
r"""The coefficients of :math:`t^2, t^4, \dots` in :math:`t / (e^t - 1) = 1 - t / 2 + \dots`.

They are Bernoulli's numbers over factorials. For rates ``t`` of up to 1 the rest is below a
rounding of float64.
"""

MILLS_FRACTION = (
    (
        0.7978846255403268,
        0.595773643146141,
        0.2198672621765827,
        0.04504996363061982,
        0.004523055941156451,
    ),
    (
        1.0,
        1.2021250548001683,
        0.6863959186755629,
        0.2288967928804201,
        0.04505016156091346,
        0.004523055574041824,
    ),
)
r"""The coefficients of two polynomials in ``a`` whose quotient is :math:`m(a) - a`, lowest power
first, for :math:`a \ge 0`.

Their relative error is at most 8.2e-8, about a rounding of float32. They come from reweighted
least squares at 400 nodes of Chebyshev in :math:`(a - 3) / (a + 3)`, with values of 40 digits. All
are positive, so that the sums lose no digits.
"""
