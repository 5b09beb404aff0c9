"""The Bregman divergence of a convex function, accurate also where it is small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_NODES, _WEIGHTS = (0.5 * x for x in np.polynomial.legendre.leggauss(8))
_NODES = _NODES + 0.5

LARGEST_CHANGE = 2.1
"""The largest change of the log of the second derivative for which its integral is taken."""


def bregman_divergence(
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    second_derivative: Callable[[Tensor], Tensor],
    x: Tensor,
    other: Tensor,
) -> Tensor:
    r"""The divergence :math:`A(x') - A(x) - (x' - x) A'(x)` of a convex ``A``, elementwise.

    Between points closer than 1 the three terms cancel. There it is the remainder of Taylor's
    theorem, :math:`(x' - x)^2 \int_0^1 (1 - t) A''(x + t (x' - x)) \, dt`, by eight nodes of
    Gauss and Legendre: exact to 1e-13 for an ``A`` that is analytic at distances below
    :math:`\pi / 2` from the real line. Where the second derivatives at both points differ much, as
    close to the end of a domain, nothing cancels, and the three terms are taken.
    """
    step = other - x
    change = (second_derivative(other) / second_derivative(x)).log().abs()
    near = (step.abs() < 1) & (change < LARGEST_CHANGE)
    # Where it underflows, rounding may leave a negative number.
    direct = (function(other) - function(x) - step * derivative(x)).clamp(min=0)
    short = torch.where(near, step, 0.0)
    remainder = torch.zeros_like(direct)
    for node, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):
        remainder = remainder + weight * (1 - node) * second_derivative(x + node * short)
    return torch.where(near, short.square() * remainder, direct)
