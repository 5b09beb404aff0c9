"""The arrays that the kernels of the evidence read, all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import Activation, evidence_activation_of
from pyro_expfam.deq.cpu.cpu_table import coefficients, entries, size_by_feature
from pyro_expfam.deq.cpu.entry_derivatives import law_at
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.separate_moments import KINDS, SeparateLaw
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family


class EvidenceDesign(NamedTuple):
    """Arrays that all rows of a table share.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the loading times ``unit``.
        exponent_intercept: the intercept times ``unit``.
        unit: what makes natural parameters of bits and counts exponents of two; 1 for other laws.
        law: the law of bits, counts and real numbers.
        function: the address of the function of another law, or 0.
        parameters: what a law knows of each feature: the size of bits and counts, the total of
            counts under a link, or cut points between minus infinity and infinity, ``(d, m)``.
        precision: precision of the latents.
    """

    rows: Any
    exponent_rows: Any
    exponent_intercept: Any
    unit: Any
    law: SeparateLaw
    function: int
    parameters: Any
    precision: Any


class EvidenceTable(NamedTuple):
    """Rows of a problem.

    An offset or weights that all rows (or all features) share have one row (or column). Without an
    offset or weights the array has no rows.

    Attributes:
        design: what is the same for all rows.
        observed: sufficient statistics, or the observations of a family without them, ``(N, d)``.
        offset: known part of the linear predictors, ``(N, d)``, ``(N, 1)`` or ``(1, d)``.
        weights: entry weights, likewise.
    """

    design: EvidenceDesign
    observed: Any
    offset: Any
    weights: Any


def evidence_table(problem: LatentProblem) -> EvidenceTable:
    """A problem in float64 as the kernels read it."""
    activation = evidence_activation_of(problem.family)
    assert activation is not None
    statistic = problem.entries.statistic
    observed = problem.y if statistic is None else statistic
    return EvidenceTable(
        _design(problem, activation),
        observed.contiguous().numpy(),
        entries(problem.offset, problem.b),
        entries(problem.weights, problem.b),
    )


def _design(problem: LatentProblem, activation: Activation) -> EvidenceDesign:
    W, b = coefficients(problem)
    unit = _UNITS.get(activation.name, 1.0)
    law = SeparateLaw(KINDS.get(activation.name, -1), float(LARGEST_EXPONENT[np.float64]), 0.0)
    parameters = _PARAMETERS.get(activation.name, _sizes)(problem.family, activation, b)
    precision = float(problem.precision)
    return EvidenceDesign(
        W, unit * W, unit * b, unit, law, law_at(activation.name), parameters, precision
    )


_UNITS = {"logistic": -1 / math.log(2), "exponential": 1 / math.log(2)}
"""The units by the name of the activation. The exponents of bits are of the odds against."""


def _sizes(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    del family
    return np.ascontiguousarray(size_by_feature(activation, b)[:, None])


def _cut_points(family: Any, activation: Activation, b: np.ndarray) -> np.ndarray:
    cuts: Tensor = family.cut_points(torch.zeros((), dtype=torch.float64)).detach()
    wide = np.broadcast_to(cuts.reshape(-1, activation.levels - 1), (len(b), activation.levels - 1))
    ends = ((-np.inf, np.inf),)
    return np.pad(wide, ((0, 0), (1, 1)), constant_values=ends)


_PARAMETERS: dict[str, Callable[[Any, Activation, np.ndarray], np.ndarray]] = {
    "ordinal": _cut_points
}
"""What kernels know of the features, by the name of the activation."""
