"""The arrays that the kernels read where curvatures depend on the observations."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.cpu_table import (
    SMALLEST_RATE,
    coefficients,
    in_format,
    size_by_feature,
)
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.observed_moments import SizedLaw
from pyro_expfam.deq.problem import LatentProblem


class ObservedDesign(NamedTuple):
    r"""Arrays that all rows of a table of overdispersed counts or of durations share.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the loading times ``unit``.
        loading: the loading transposed, with latents padded to an even number by zeros.
        exponent_loading: the loading times ``unit``, which makes minus the linear predictors
            exponents of two.
        exponent_intercept: the intercept times ``unit``. For a negative binomial, the log of the
            size is subtracted from the intercept first.
        unit: that factor, negative.
        ones: the factor of slopes and curvatures, ``(d,)``.
        size: the size of a negative binomial or the shape of a gamma, ``(features,)``.
        law: stands for the family.
        exponential: whether the family is the gamma, whose variance is not bounded.
        precision: precision of the latents.
        self_concordance: the most by which a log variance changes with the linear predictor.
        rate: the most by which a log variance changes along a unit vector of latents.
    """

    rows: Any
    exponent_rows: Any
    loading: Any
    exponent_loading: Any
    exponent_intercept: Any
    unit: Any
    ones: Any
    size: Any
    law: Any
    exponential: bool
    precision: Any
    self_concordance: Any
    rate: Any


def observed_design(problem: LatentProblem) -> ObservedDesign:
    """The design of a problem of negative binomial or gamma observations."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = coefficients(problem)
    number = b.dtype.type
    numbers = (
        -1 / math.log(2),
        LARGEST_EXPONENT[number],
        float(problem.precision),
        problem.family.self_concordance,
    )
    design: ObservedDesign = in_format(
        _make_design(
            W,
            b,
            size_by_feature(activation, b),
            activation.name == "gamma",
            *(number(x) for x in numbers),
        ),
        number,
    )
    return design


@compiled_once
def _make_design(W, b, size, exponential, unit, largest_exponent, precision, self_concordance):
    num_features, latent_dim = W.shape
    loading = np.zeros((latent_dim + latent_dim % 2, num_features), W.dtype)
    exponent_loading = np.zeros_like(loading)
    exponent_intercept = np.zeros(num_features, W.dtype)
    largest = W.dtype.type(0)
    for i in range(num_features):
        exponent_intercept[i] = unit * (b[i] if exponential else b[i] - math.log(size[i]))
        square = W.dtype.type(0)
        for k in range(latent_dim):
            w = W[i, k]
            loading[k, i], exponent_loading[k, i] = w, unit * w
            square += w * w
        largest = max(largest, square)
    rate = W.dtype.type(max(self_concordance * math.sqrt(largest), SMALLEST_RATE))
    return ObservedDesign(
        W,
        unit * W,
        loading,
        exponent_loading,
        exponent_intercept,
        unit,
        np.ones(num_features, W.dtype),
        size,
        SizedLaw(exponential, largest_exponent),
        exponential,
        precision,
        self_concordance,
        rate,
    )
