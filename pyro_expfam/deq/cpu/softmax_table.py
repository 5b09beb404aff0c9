"""The arrays that the kernels read of a table of categories."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once
from pyro_expfam.deq.cpu.cpu_table import SMALLEST_RATE, coefficients, in_format
from pyro_expfam.deq.problem import LatentProblem

LEVELS_AT_ONCE = 16
"""Linear predictors that are summed before the sum is added to the total."""


class SoftmaxDesign(NamedTuple):
    """Arrays that all rows of a table of categories share.

    The levels of a column are side by side. Latents are padded to an even number.

    Attributes:
        loading: transposed.
        exponent_loading: the loading minus its mean over the levels of each column, times ``unit``,
            which makes linear predictors exponents of two. The mean changes no probability, and
            without it fewer digits are lost.
        exponent_intercept: the intercept, likewise.
        unit: that factor.
        levels: the number of levels of each column.
        exponential: False, since variances are bounded.
        precision: precision of the latents.
        self_concordance: the most by which a log variance changes with the linear predictor.
        rate: the most by which a log variance changes along a unit vector of latents.
    """

    loading: Any
    exponent_loading: Any
    exponent_intercept: Any
    unit: Any
    levels: Any
    exponential: bool
    precision: Any
    self_concordance: Any
    rate: Any


def softmax_design(problem: LatentProblem) -> SoftmaxDesign:
    """The design of a problem whose family has a softmax as activation."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = coefficients(problem)
    number = b.dtype.type
    numbers = (1 / math.log(2), float(problem.precision), problem.family.self_concordance)
    made = _make_design(W, b, activation.levels, *(number(x) for x in numbers))
    design: SoftmaxDesign = in_format(made, number)
    return design


@numba.njit(**OPTIONS)
def columns_at_once(levels):
    """The columns whose linear predictors are computed together."""
    return max(1, LEVELS_AT_ONCE // levels)


@compiled_once
def _make_design(W, b, levels, unit, precision, self_concordance):
    num_predictors, latent_dim = W.shape
    loading = np.zeros((latent_dim + latent_dim % 2, num_predictors), W.dtype)
    exponent_loading = np.zeros_like(loading)
    exponent_intercept = np.zeros(num_predictors, W.dtype)
    largest = W.dtype.type(0)
    for first in range(0, num_predictors, levels):
        mean_intercept = b[first : first + levels].mean()
        for i in range(first, first + levels):
            exponent_intercept[i] = unit * (b[i] - mean_intercept)
        for k in range(latent_dim):
            mean = W[first : first + levels, k].mean()
            for i in range(first, first + levels):
                loading[k, i], exponent_loading[k, i] = W[i, k], unit * (W[i, k] - mean)
    for i in range(num_predictors):
        square = W.dtype.type(0)
        for k in range(latent_dim):
            square += W[i, k] * W[i, k]
        largest = max(largest, square)
    rate = W.dtype.type(max(self_concordance * math.sqrt(largest), SMALLEST_RATE))
    return SoftmaxDesign(
        loading,
        exponent_loading,
        exponent_intercept,
        unit,
        levels,
        False,
        precision,
        self_concordance,
        rate,
    )
