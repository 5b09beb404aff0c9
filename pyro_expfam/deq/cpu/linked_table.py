"""The arrays that the kernels read of a table of bits or counts under a link."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.cpu_table import SMALLEST_RATE, coefficients, size_by_feature
from pyro_expfam.deq.cpu.outcomes import LINKS
from pyro_expfam.deq.cpu.single_outcomes import CHANGES, SINGLE_LINKS
from pyro_expfam.deq.problem import LatentProblem


class LinkedDesign(NamedTuple):
    """Arrays that all rows of a table share, in float64 whatever the dtype of the problem.

    Without a certificate, decreases of the objective decide about steps. In float32 they would be
    lost to rounding far from the root.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the same, by the name that it has in other designs.
        loading: the loading transposed, with latents padded to an even number by zeros.
        exponent_loading: the same, by the name that it has in other designs.
        exponent_intercept: the intercept.
        unit: 1.
        ones: the factor of slopes and curvatures, ``(d,)``.
        size: the total of a count, ``(features,)``.
        law: stands for the link.
        precision: precision of the latents.
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
    precision: Any


def linked_design(problem: LatentProblem) -> LinkedDesign:
    """The design of a problem of bits or counts under a link."""
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = (x.astype(np.float64) for x in coefficients(problem))
    latent_dim = W.shape[1]
    loading = np.zeros((latent_dim + latent_dim % 2, len(W)))
    loading[:latent_dim] = W.T
    size = size_by_feature(activation, b)
    law = LINKS[activation.name](activation.counts)
    precision = float(problem.precision)
    return LinkedDesign(W, W, loading, loading, b, 1.0, np.ones(len(W)), size, law, precision)


class SingleLinkedDesign(NamedTuple):
    """Arrays that all rows of a table share, in float32, for steps that slopes decide about.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the same, by the name that it has in other designs.
        loading: the loading transposed, with latents padded to an even number by zeros.
        exponent_loading: the same, by the name that it has in other designs.
        exponent_intercept: the intercept.
        unit: 1.
        ones: the factor of slopes and curvatures, ``(d,)``.
        size: the total of a count, ``(features,)``.
        law: stands for the link in float32.
        precision: precision of the latents.
        exponential: False. A variance without a bound has no grid of starts here.
        self_concordance: the most by which a log curvature changes with the linear predictor.
        rate: the most by which a log curvature changes along a unit vector of latents.
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
    precision: Any
    exponential: bool
    self_concordance: Any
    rate: Any


def single_linked_design(problem: LatentProblem) -> SingleLinkedDesign:
    """The design in float32 of a problem of bits or counts under a link."""
    activation = activation_of(problem.family)
    assert activation is not None
    number, exact = np.float32, linked_design(problem)
    arrays = (np.ascontiguousarray(x, number) for x in (exact.rows, exact.loading))
    rows, loading = arrays
    intercept, ones, size = (
        x.astype(number) for x in (exact.exponent_intercept, exact.ones, exact.size)
    )
    change = CHANGES[activation.name]
    largest = float(np.square(exact.rows).sum(1).max())
    return SingleLinkedDesign(
        rows,
        rows,
        loading,
        loading,
        intercept,
        number(1),
        ones,
        size,
        SINGLE_LINKS[activation.name](activation.counts),
        number(exact.precision),
        False,
        number(1),
        number(max(change * math.sqrt(largest), SMALLEST_RATE)),
    )
