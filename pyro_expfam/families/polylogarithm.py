r"""Polylogarithms of integer order, :math:`\mathrm{Li}_s(e^t) = \sum_k k^{-s} e^{k t}`.

Away from 0 the series is summed. Close to 0 it converges slowly, and is replaced by an expansion in
powers of ``t`` with values of the zeta function as coefficients.

Source: Wood (1992), *The computation of polylogarithms*, equations 9.3 and 9.5; NIST Digital
Library of Mathematical Functions, section 25.12.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache, partial

import torch
from torch import Tensor

from pyro_expfam.links.formulas import by_formula
from pyro_expfam.links.polynomial import polynomial

_NEAR = 1.5
"""Up to this distance from 0 the expansion is taken; it converges up to 2 pi."""

_NUM_POWERS = 40
"""Terms of the expansion: the last is below ``(1.5 / 2 pi) ** 40``, which is 1e-25."""

_NUM_TERMS = 60
"""Terms of the series: the last is below ``exp(-90)`` times a power of 60."""


def polylogarithm(order: int, t: Tensor) -> Tensor:
    r"""The polylogarithm :math:`\mathrm{Li}_s(e^t)` at negative ``t``, to rounding.

    Its derivative in ``t`` is the polylogarithm of the next lower order, and autograd takes it as
    such, to every order.

    Args:
        order: the order ``s``, any whole number.
        t: negative numbers.

    Example:
        >>> import torch
        >>> from pyro_expfam.families.polylogarithm import polylogarithm
        >>> polylogarithm(2, torch.tensor([-1.0, -0.001]))
        tensor([0.4088, 1.6370])
    """
    return by_formula(partial(_lowered, order), t)


def _lowered(order: int, t: Tensor, derivative: int) -> Tensor:
    precise = t.double()
    is_near = precise > -_NEAR
    near = _expansion(order - derivative, torch.where(is_near, precise, -_NEAR))
    far = _series(order - derivative, torch.where(is_near, -_NEAR, precise))
    return torch.where(is_near, near, far).to(t.dtype)


def _series(order: int, t: Tensor) -> Tensor:
    x = torch.exp(t)
    coefficients = [float(Fraction(k) ** -order) for k in range(1, _NUM_TERMS + 1)]
    return x * polynomial(coefficients, x)


def _expansion(order: int, t: Tensor) -> Tensor:
    singular = order - 1
    coefficients = [
        0.0 if k == singular else _zeta(order - k) / math.factorial(k) for k in range(_NUM_POWERS)
    ]
    regular = polynomial(coefficients, t)
    if order < 1:
        return math.factorial(-order) * (-t) ** (order - 1) + regular
    harmonic = sum(1 / k for k in range(1, order))
    return t**singular / math.factorial(singular) * (harmonic - torch.log(-t)) + regular


@lru_cache
def _zeta(n: int) -> float:
    """The Riemann zeta function at a whole number other than 1."""
    if n <= 0:
        bernoulli = _bernoulli_numbers(1 - n)[1 - n]
        # With the Bernoulli number +1/2 of index 1, which makes this right at 0 too.
        return float(-bernoulli / (1 - n))
    return float(torch.special.zeta(torch.tensor(float(n), dtype=torch.float64), 1.0))


@lru_cache
def _bernoulli_numbers(highest: int) -> tuple[Fraction, ...]:
    """The Bernoulli numbers from index 0, with +1/2 at index 1."""
    found = [Fraction(1)]
    for m in range(1, highest + 1):
        lower = sum(math.comb(m, k) * found[k] / (m - k + 1) for k in range(m))
        found.append(1 - Fraction(lower))
    return tuple(found)
