"""The arrays that the kernels read of a table of ordered answers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.cpu_table import SMALLEST_RATE, coefficients, in_format
from pyro_expfam.deq.problem import LatentProblem

LARGEST_ODDS = {np.float32: 2.0**60, np.float64: 2.0**500}
"""Odds are no larger, so that the product of two is no infinity. A probability of 2 to the power of
-60 is as good as 0."""

SMALLEST_INFORMATION = 1e-12
"""The least information of a column at the latents zero, for the start of a row."""


class OrdinalDesign(NamedTuple):
    """Arrays that all rows of a table of ordered answers share.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the loading times ``unit``.
        loading: the loading transposed, with latents padded to an even number by zeros.
        exponent_loading: the loading times ``unit``, which makes minus the linear predictors
            exponents of two.
        exponent_intercept: the intercept, from the middle of the cut points, times ``unit``.
        unit: that factor, negative.
        ones: the factor of slopes and curvatures, ``(d,)``.
        odds: the exponentials of the cut points, from their middle, ``(features, levels + 1)``,
            between 0 and infinity. Those around an answer are side by side.
        largest: what odds are bounded by.
        response: the derivative of the log probability of each answer over the information of a
            column, at the latents zero, ``(features, levels)``.
        weight: that information, ``(features,)``.
        exponential: False, since variances are bounded.
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
    odds: Any
    largest: Any
    response: Any
    weight: Any
    exponential: bool
    precision: Any
    self_concordance: Any
    rate: Any


def ordinal_design(problem: LatentProblem) -> OrdinalDesign:
    """The design of a problem of ordered answers."""
    family: Any = problem.family
    W, b = coefficients(problem)
    number = b.dtype.type
    cuts = family.cut_points(torch.zeros((), dtype=torch.float64)).numpy()
    cuts = np.broadcast_to(cuts.reshape(-1, family.levels - 1), (len(b), family.levels - 1))
    middle = (cuts[:, :1] + cuts[:, -1:]) / 2
    odds = np.pad(np.exp(cuts - middle), ((0, 0), (1, 1)), constant_values=(0, np.inf))
    response, weight = _at_zero(cuts, b.astype(np.float64))
    unit = -1 / math.log(2)
    exponent_intercept = (unit * (b.astype(np.float64) - middle[:, 0])).astype(b.dtype)
    numbers = (
        unit,
        LARGEST_ODDS[number],
        float(problem.precision),
        family.self_concordance,
    )
    design: OrdinalDesign = in_format(
        _make_design(
            W,
            exponent_intercept,
            odds.astype(b.dtype),
            response.astype(b.dtype),
            weight.astype(b.dtype),
            *(number(x) for x in numbers),
        ),
        number,
    )
    return design


def _at_zero(cuts: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all answers over the information, ``(d, K)``, and the information ``(d,)``."""
    # The probabilities of less than each answer. Operations of PyTorch would wake its threads.
    below = np.pad((1 + np.tanh((cuts - b[:, None]) / 2)) / 2, ((0, 0), (1, 1)))
    below[:, -1] = 1
    score = below[:, :-1] + below[:, 1:] - 1
    # Far from all cut points nothing is known of a column.
    information = np.maximum((np.diff(below) * score**2).sum(1), SMALLEST_INFORMATION)
    return score / information[:, None], information


@compiled_once
def _make_design(
    W,
    intercept,
    odds,
    response,
    weight,
    unit,
    largest_odds,
    precision,
    self_concordance,
):
    num_features, latent_dim = W.shape
    loading = np.zeros((latent_dim + latent_dim % 2, num_features), W.dtype)
    exponent_loading = np.zeros_like(loading)
    largest = W.dtype.type(0)
    for i in range(num_features):
        square = W.dtype.type(0)
        for k in range(latent_dim):
            w = W[i, k]
            loading[k, i], exponent_loading[k, i] = w, unit * w
            square += w * w
        largest = max(largest, square)
    rate = W.dtype.type(max(self_concordance * math.sqrt(largest), SMALLEST_RATE))
    return OrdinalDesign(
        W,
        unit * W,
        loading,
        exponent_loading,
        intercept,
        unit,
        np.ones(num_features, W.dtype),
        odds,
        largest_odds,
        response,
        weight,
        False,
        precision,
        self_concordance,
        rate,
    )
