r"""Log factorials split into parts that do not cancel, for log probabilities of large counts.

The log probability of a count ``k`` is of order ``log k`` near the mode, but a difference of
terms of order ``k log k``. Loader's saddle-point form has no such terms: it splits
:math:`\log k! = k \log k - k + R(k)` and gathers the large parts into half deviances.

Source: C. Loader (2000), *Fast and accurate computation of binomial probabilities*.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from pyro_expfam.links.polynomial import polynomial

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_ATANH = tuple(1 / (2 * j + 1) for j in range(1, 12))

_FEW = 16
"""From this count on, Stirling's series has the accuracy of double precision."""


MANY = 1000
"""Up to this count, log factorials in double precision cancel to no less than 12 digits."""


MANY_IN_SINGLE = 1 << 16
"""Up to this count, they cancel to no less than 9 digits, more than single precision has."""

_TABLED = 1 << 16
"""Log factorials of smaller counts are looked up if there are many of them on a CPU."""


def log_factorial(k: Tensor) -> Tensor:
    """Log factorials in float64, by the log-gamma function for arguments between counts."""
    if k.device.type == "cpu" and k.numel() >= _TABLED // 16:
        smallest, largest = k.aminmax()
        if bool((smallest >= 0) & (largest < _TABLED)):
            place = k.long()
            if bool((place == k).all()):
                return _log_factorials()[place]
    return torch.lgamma(k + 1)


@cache
def _log_factorials() -> Tensor:
    return torch.lgamma(torch.arange(1, _TABLED + 1, dtype=torch.float64))


def _stirling_remainder(k: Tensor) -> Tensor:
    r"""The remainder :math:`R(k) = \log k! - (k \log k - k)` of counts of at least 16.

    It is :math:`\tfrac12 \log 2 \pi k` and Stirling's series (Abramowitz and Stegun, 6.1.41).
    """
    inverse = k.reciprocal()
    return 0.5 * torch.log(2 * math.pi * k) + inverse * polynomial(_STIRLING, inverse.square())


def log_factorial_remainder(k: Tensor) -> Tensor:
    """The remainder ``R(k)`` of any count; ``R(0)`` is 0."""
    few = k.clamp(max=_FEW)
    direct = torch.lgamma(few + 1) - few * (few.clamp(min=1e-300).log() - 1)
    return torch.where(k < _FEW, direct, _stirling_remainder(k.clamp(min=_FEW)))


def is_close(x: Tensor, mean: Tensor) -> Tensor:
    """Whether ``x`` is within a factor of 1.5 of ``mean``, and neither is 0."""
    return 5 * (x - mean).abs() < x + mean


def half_deviance(x: Tensor, mean: Tensor) -> Tensor:
    r"""Half the Poisson deviance, :math:`x \log (x / m) + m - x`, where :func:`is_close`.

    The logarithm is summed as a series in :math:`(x - m) / (x + m)`, whose first term takes
    :math:`m - x` exactly (Loader, 2000, section 2).
    """
    difference = x - mean
    v = difference / (x + mean)
    w = v.square()
    return v * (difference + 2 * x * w * polynomial(_ATANH, w))


def log_binomial_coefficient(n: Tensor, k: Tensor) -> Tensor:
    r"""The logarithm of ``n`` choose ``k`` for ``0 <= k <= n`` and ``n >= 1``."""
    return coefficient_large_part(n, k) + coefficient_remainder(n, k)


def coefficient_large_part(n: Tensor, k: Tensor) -> Tensor:
    r"""The part :math:`n \log n - k \log k - (n - k) \log (n - k)` of a log coefficient."""
    few = torch.minimum(k, n - k)
    share = few / n
    return -torch.xlogy(few, share) - (n - few) * torch.log1p(-share)


def coefficient_remainder(n: Tensor, k: Tensor) -> Tensor:
    """The part ``R(n) - R(k) - R(n - k)`` of a log binomial coefficient."""
    return log_factorial_remainder(n) - log_factorial_remainder(k) - log_factorial_remainder(n - k)
