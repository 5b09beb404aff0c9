"""Slopes and curvatures that depend on the observations, for all lanes, compiled by Numba.

The losses of :class:`~pyro_expfam.families.NegativeBinomial` and
:class:`~pyro_expfam.families.Gamma` have the form of bits and counts with weights and offsets by
entry, which the functions here find from the observation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.outcomes import LINKS, link_moments
from pyro_expfam.deq.cpu.single_outcomes import SINGLE_MOMENTS


class SizedLaw(NamedTuple):
    """Stands for the negative binomial or the gamma.

    Attributes:
        is_gamma: whether it is the gamma.
        largest: the exponent beyond which a power of two is infinite.
    """

    is_gamma: Any
    largest: Any


def moments(law: Any, size: Any, exponent: Any, y: Any, slope: Any, curvature: Any) -> None:
    """Slopes and curvatures of a feature, for compiled functions.

    Args:
        law: stands for the law.
        size: the size, shape or total of the feature.
        exponent: exponents of two, or linear predictors under a link, ``(lanes,)``.
        y: observations, ``(lanes,)``.
        slope: where the derivatives of the losses go.
        curvature: where their second derivatives go.
    """
    raise NotImplementedError("only for compiled functions")


@overload(moments, jit_options=INLINED)
def _moments(law, size, exponent, y, slope, curvature):
    function = MOMENTS[law.instance_class]
    return lambda law, size, exponent, y, slope, curvature: function(
        law, size, exponent, y, slope, curvature
    )


@numba.njit(**INLINED)
def _sized_moments(law, size, exponent, y, slope, curvature):
    if law.is_gamma:
        gamma_moments(exponent, law.largest, size, y, slope, curvature)
    else:
        negative_binomial_moments(exponent, size, y, slope, curvature)


@numba.njit(**INLINED)
def negative_binomial_moments(exponent, size, y, mean, variance):
    r"""The slope :math:`r p - y q` and the curvature :math:`(y + r) p q` of the loss.

    Here :math:`p = 1 - q` is the logistic function of :math:`\eta - \log r`.
    """
    one = exponent.dtype.type(1)
    for r in range(LANES):
        odds = power_of_two(exponent[r])
        likelihood = one / (one + odds)
        unlikely, count = odds * likelihood, y[r]
        mean[r] = size * likelihood - count * unlikely
        variance[r] = (count + size) * likelihood * unlikely


@numba.njit(**INLINED)
def gamma_moments(exponent, largest, shape, y, mean, variance):
    r"""The slope :math:`k - c` and the curvature :math:`c = k y e^{-\eta}` of the loss."""
    half = exponent.dtype.type(0.5)
    for r in range(LANES):
        # Half of the exponent twice: a power of two may be out of range where its product with the
        # observation is not.
        root = power_of_two(half * exponent[r])
        ratio = (y[r] * root) * root
        ratio = ratio if exponent[r] <= 2 * largest else exponent[r] * np.inf
        variance[r] = shape * ratio
        mean[r] = shape - variance[r]


MOMENTS = {
    SizedLaw: _sized_moments,
    **dict.fromkeys(LINKS.values(), link_moments),
    **SINGLE_MOMENTS,
}
"""The functions of the laws, by what stands for them."""
