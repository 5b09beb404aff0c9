r"""The log of the normal distribution function with derivatives that are accurate in both tails.

Let :math:`g(x) = \log \Phi(x)` and :math:`m = g' = \varphi / \Phi`. Then :math:`m' = -m (m + x)`,
and Leibniz's rule gives every higher derivative. In the lower tail the sum ``m + x`` cancels. There
:math:`m(-u) = u + 1/u - 2/u^3 + 10/u^5 - \dots` is summed term by term, and so are its derivatives.

Source: Abramowitz and Stegun (1964), 26.2.12, for the expansion of :math:`\Phi` in the tail.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pyro_expfam.links.formulas import by_formula, leibniz, piecewise
from pyro_expfam.links.polynomial import polynomial

_TAIL = 9.0
"""Below minus this number the series is accurate to double precision."""

_NUM_TERMS = 36


def log_ndtr(x: Tensor) -> Tensor:
    """The log probability that a standard normal variable is below ``x``.

    It is computed in double precision.
    """
    return by_formula(_derivative, x)


def _derivative(x: Tensor, order: int) -> Tensor:
    precise = x.double()
    if order == 0:
        return torch.special.log_ndtr(precise).to(x.dtype)
    return piecewise(precise < -_TAIL, precise, _in_tail, _outside_tail, order).to(x.dtype)


def _outside_tail(x: Tensor, order: int) -> Tensor:
    ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2))
    ratios, sums = [ratio], [ratio + x]
    for n in range(order - 1):
        ratios.append(-leibniz(ratios, sums))
        sums.append(ratios[-1] + 1 if n == 0 else ratios[-1])
    return ratios[order - 1]


def _in_tail(x: Tensor, order: int) -> Tensor:
    inverse = -1 / x
    sign = -1 if order % 2 == 0 else 1
    series = polynomial(_series_coefficients(order), inverse.square())
    return sign * series * inverse ** (order - 2)


@lru_cache
def _series_coefficients(order: int) -> tuple[float, ...]:
    """The coefficients of :math:`u^{2 - k - 2j}` in the derivative of order ``k - 1`` of ``m``."""
    coefficients = [1]
    for n in range(1, _NUM_TERMS):
        products = sum(coefficients[i] * coefficients[n - i] for i in range(1, n))
        coefficients.append((3 - 2 * n) * coefficients[n - 1] - products)
    return tuple(
        float(c * math.prod(1 - 2 * j - i for i in range(order - 1)))
        for j, c in enumerate(coefficients)
    )
