r"""Logarithms of functions of a rate :math:`t = e^\eta`, with accurate derivatives in both tails.

For small rates each of them is :math:`\eta` and a power series in ``t``, whose derivatives in
:math:`\eta` follow term by term. For other rates the derivatives follow by Leibniz's rule. Autograd
would lose them in the difference of two logarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pyro_expfam.links.formulas import by_formula, leibniz, piecewise
from pyro_expfam.links.logistic import softplus
from pyro_expfam.links.polynomial import polynomial

_SMALL = 0.25
"""The largest rate for which the series of the log softplus is used."""

_LARGEST = 0.9
"""Rates stay where they are beyond this part of the largest exponent. A rate that overflows would
make log densities and slopes NaN where they are zero."""

_SINH_SERIES = (
    1 / 24,
    -1 / 2880,
    1 / 181440,
    -1 / 9676800,
    1 / 479001600,
    -691 / 15692092416000,
    1 / 1046139494400,
    -3617 / 170729965486080000,
    43867 / 91963695909076992000,
)
"""The coefficients of ``t ** 2``, ``t ** 4``, ... in the log of ``sinh(t / 2) / (t / 2)``."""


def log_softplus(eta: Tensor) -> Tensor:
    r"""The function :math:`\log \log(1 + e^\eta)`."""
    return by_formula(_log_softplus, eta)


def log_expm1_exp(eta: Tensor) -> Tensor:
    r"""The function :math:`\log(e^t - 1)` of the rate :math:`t = e^\eta`."""
    return by_formula(_log_expm1, eta)


def log1m_exp_exp(eta: Tensor) -> Tensor:
    r"""The function :math:`\log(1 - e^{-t})` of the rate :math:`t = e^\eta`."""
    return by_formula(_log1m_exp, eta)


def _log_softplus(eta: Tensor, order: int) -> Tensor:
    is_small = eta < math.log(_SMALL)
    return piecewise(is_small, eta, _log_softplus_of_small, _log_softplus_of_large, order)


def _log_softplus_of_small(eta: Tensor, order: int) -> Tensor:
    coefficients = enumerate(log_of_log1p_series())
    return _start(eta, order) + polynomial([c * n**order for n, c in coefficients], eta.exp())


def _log_softplus_of_large(eta: Tensor, order: int) -> Tensor:
    size = softplus(eta)
    if order == 0:
        return torch.log(size)
    # The slope is q = p / softplus with the sigmoid p, and q' = q (1 - p - q).
    p, rest = torch.sigmoid(eta), torch.sigmoid(-eta)
    rests, shares, slopes, factors = [rest], [p], [p / size], [rest - p / size]
    for _ in range(order - 1):
        rests.append(-leibniz(rests, shares))
        shares.append(-rests[-1])
        slopes.append(leibniz(slopes, factors))
        factors.append(rests[-1] - slopes[-1])
    return slopes[-1]


def _log_expm1(eta: Tensor, order: int) -> Tensor:
    return piecewise(eta < 0, eta, _log_expm1_of_small, _log_expm1_of_large, order)


def _log_expm1_of_small(eta: Tensor, order: int) -> Tensor:
    rate = torch.exp(eta)
    square = rate.square()
    series = polynomial([c * (2.0 * j) ** order for j, c in enumerate(_SINH_SERIES, 1)], square)
    return _start(eta, order) + 0.5 * rate + square * series


def _log_expm1_of_large(eta: Tensor, order: int) -> Tensor:
    return _rate(eta) + _log1m_exp_of_large(eta, order)


def _log1m_exp(eta: Tensor, order: int) -> Tensor:
    return piecewise(eta < 0, eta, _log1m_exp_of_small, _log1m_exp_of_large, order)


def _log1m_exp_of_small(eta: Tensor, order: int) -> Tensor:
    return _log_expm1_of_small(eta, order) - torch.exp(eta)


def _log1m_exp_of_large(eta: Tensor, order: int) -> Tensor:
    rate = _rate(eta)
    if order == 0:
        return torch.log1p(-torch.exp(-rate))
    # The slope is w = t / (exp(t) - 1), and w' = w (1 - t - w).
    slope = rate / torch.expm1(rate)
    slopes, factors = [slope], [1 - rate - slope]
    for _ in range(order - 1):
        # The slope underflows before its factor overflows.
        slopes.append(torch.where(slope == 0, 0.0, leibniz(slopes, factors)))
        factors.append(-rate - slopes[-1])
    return slopes[-1]


def _rate(eta: Tensor) -> Tensor:
    """The rate, which is finite also where the linear predictor is so large that it overflows."""
    return torch.exp(eta.clamp(max=_LARGEST * math.log(torch.finfo(eta.dtype).max)))


def _start(eta: Tensor, order: int) -> Tensor:
    """The derivative of the identity."""
    return eta if order == 0 else torch.full_like(eta, 1.0 if order == 1 else 0.0)


@lru_cache
def log_of_log1p_series(num_terms: int = 28) -> tuple[float, ...]:
    r"""The coefficients of :math:`\log(\log(1 + t) / t)` in ``t``.

    For a series ``f`` with ``f(0) = 1``, :math:`t f' = f \, t (\log f)'` gives the coefficients of
    the logarithm one by one.
    """
    inner = [(-1) ** k / (k + 1) for k in range(num_terms)]
    found = [0.0]
    for n in range(1, num_terms):
        products = sum(k * found[k] * inner[n - k] for k in range(1, n))
        found.append(inner[n] - products / n)
    return tuple(found)
