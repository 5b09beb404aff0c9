"""The arrays that the kernels of the evidence read, all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import (
    Activation,
    evidence_activation_of,
    evidence_observations,
)
from pyro_expfam.deq.cpu.cpu_table import coefficients, entries, size_by_feature
from pyro_expfam.deq.cpu.evidence_laws import law_at
from pyro_expfam.deq.cpu.separate_moments import KINDS
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import At, Kind, places, take

BEGIN, END, KIND, FUNCTION, COUNT = range(5)
"""The places of the numbers of a law."""


class EvidenceDesign(NamedTuple):
    """Arrays that all rows of a table share, in the order of :func:`laws_of`.

    Attributes:
        rows: the loading, ``(d, l)``.
        exponent_rows: the loading, times the unit of each law.
        exponent_intercept: the intercept, times the unit of each law.
        laws: of each law with one linear predictor for each observation its first feature, the end
            of its features, the kind of bits, counts or real numbers, or -1, the address of the
            function of another law, or 0, and the number of its parameters, ``(laws, 5)``.
        units: what makes natural parameters of bits and counts exponents of two; 1 for other laws.
        parameters: what a law knows of each feature: the size of bits and counts, the total of
            counts under a link, or cut points between minus infinity and infinity, ``(d, m)``.
        columns: of each category its first linear predictor and its levels, ``(columns, 2)``.
        separate: the number of linear predictors before these.
        precision: precision of the latents.
    """

    rows: Any
    exponent_rows: Any
    exponent_intercept: Any
    laws: Any
    units: Any
    parameters: Any
    columns: Any
    separate: int
    precision: float


class EvidenceTable(NamedTuple):
    """Rows of a problem.

    An offset or weights that all rows (or all features) share have one row (or column). Without an
    offset or weights the array has no rows.

    Attributes:
        design: what is the same for all rows.
        observed: sufficient statistics, or the observations of a family without them, ``(N, d)``.
        offset: known part of the linear predictors, ``(N, d)``, ``(N, 1)`` or ``(1, d)``.
        weights: entry weights, likewise.
        covariates: covariates of the rows, ``(N, p)``.
    """

    design: EvidenceDesign
    observed: Any
    offset: Any
    weights: Any
    covariates: Any


class ColumnsOfLaw(NamedTuple):
    """The columns of one law as the kernels take them.

    Attributes:
        kind: the columns with their family.
        activation: its activation.
        begin: the place of its first linear predictor in the arrays.
        levels: how many adjacent linear predictors belong to one observation.
    """

    kind: Kind
    activation: Activation
    begin: int
    levels: int

    @property
    def is_separate(self) -> bool:
        """Whether an observation has one linear predictor. A composition may have one part."""
        return self.activation.name != "softmax"

    @property
    def end(self) -> int:
        """The place behind its last linear predictor in the arrays."""
        return self.begin + self.kind.num_predictors


def laws_of(problem: LatentProblem) -> list[ColumnsOfLaw]:
    """The laws of a table in the order of the arrays, which puts laws of categories last."""
    found, begin = [], 0
    for kind in problem.kinds:
        activation = evidence_activation_of(kind.family)
        assert activation is not None
        found.append(
            ColumnsOfLaw(kind, activation, 0, kind.family.levels_among(kind.num_predictors))
        )
    found.sort(key=lambda law: not law.is_separate)
    for place, law in enumerate(found):
        found[place] = law._replace(begin=begin)
        begin += law.kind.num_predictors
    return found


def order_of(laws: list[ColumnsOfLaw]) -> Tensor | None:
    """The linear predictors in the order of the arrays, or None where it is their own."""
    numbers = [i for law in laws for i in places(law.kind.predictors, _size(laws))]
    return None if numbers == list(range(len(numbers))) else torch.tensor(numbers)


def _size(laws: list[ColumnsOfLaw]) -> int:
    return laws[-1].end


def evidence_table(problem: LatentProblem) -> EvidenceTable:
    """A problem in float64 as the kernels read it."""
    laws = laws_of(problem)
    order = order_of(laws)
    parts = [
        evidence_observations(law.kind.family, take(problem.y, law.kind.predictors)) for law in laws
    ]
    observed = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    covariates = problem.covariates
    known = problem.b.new_zeros(len(observed), 0) if covariates is None else covariates.x
    return EvidenceTable(
        _design(problem, laws, order),
        observed.contiguous().numpy(),
        entries(_in_order(problem.offset, order), problem.b),
        entries(_in_order(problem.weights, order), problem.b),
        known.contiguous().numpy(),
    )


def _in_order(numbers: Tensor | None, order: At | None) -> Tensor | None:
    if numbers is None or order is None or numbers.shape[-1] == 1:
        return numbers
    return take(numbers, order)


def _design(
    problem: LatentProblem, laws: list[ColumnsOfLaw], order: Tensor | None
) -> EvidenceDesign:
    W, b = coefficients(problem)
    if order is not None:
        W, b = W[order.numpy()], b[order.numpy()]
    separate = [law for law in laws if law.is_separate]
    parameters = parameters_of(separate, b)
    widest = max([x.shape[1] for x in parameters], default=1)
    numbers, unit, units = np.zeros((len(b), widest)), np.ones((len(b), 1)), np.ones(len(separate))
    rows = np.zeros((len(separate), 5), np.int64)
    for place, (law, own_numbers) in enumerate(zip(separate, parameters, strict=True)):
        own, name = slice(law.begin, law.end), law.activation.name
        numbers[own, : own_numbers.shape[1]] = own_numbers
        units[place] = unit[own] = _UNITS.get(name, 1.0)
        function = law_at(name)
        kind = KINDS.get(name, -1) if function == 0 else -1
        rows[place] = law.begin, law.end, kind, function, own_numbers.shape[1]
    return EvidenceDesign(
        W,
        unit * W,
        unit[:, 0] * b,
        rows,
        units,
        numbers,
        _columns(laws),
        separate[-1].end if separate else 0,
        float(problem.precision),
    )


def _columns(laws: list[ColumnsOfLaw]) -> np.ndarray:
    """The first linear predictors of all categories, and their levels."""
    columns = [
        (first, law.levels)
        for law in laws
        if not law.is_separate
        for first in range(law.begin, law.end, law.levels)
    ]
    return np.array(columns, np.int64).reshape(-1, 2)


_UNITS = {"logistic": -1 / math.log(2), "exponential": 1 / math.log(2)}
"""The units by the name of the activation. The exponents of bits are of the odds against."""


def parameters_of(laws: list[ColumnsOfLaw], b: np.ndarray) -> list[np.ndarray]:
    """What kernels know of the features of each law, ``(d, m)``.

    Args:
        laws: laws with one linear predictor for each observation.
        b: any array like the intercept, ``(d,)``, for its size and dtype.
    """
    found = []
    for law in laws:
        make = _PARAMETERS.get(law.activation.name, _sizes)
        found.append(make(law.kind.family, law.activation, b[law.begin : law.end]))
    return found


def _sizes(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    del family
    return np.ascontiguousarray(size_by_feature(activation, b)[:, None])


def _with_logs(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    sizes = _sizes(family, activation, b)
    return np.concatenate([sizes, np.log(sizes)], 1)


def _with_log_gammas(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    sizes = _sizes(family, activation, b)
    return np.concatenate([sizes, torch.lgamma(torch.from_numpy(sizes)).numpy()], 1)


def _with_powers(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    powers = _sizes(family, activation._replace(size=activation.power), b)
    return np.concatenate([_sizes(family, activation, b), powers], 1)


def _with_odds(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    """The probabilities of additional zeros, the log odds against them, and the log of the rest."""
    zeros = _sizes(family, activation._replace(size=activation.zeros), b)
    rest = np.log1p(-zeros)
    return np.concatenate([zeros, rest - np.log(zeros), rest], 1)


def _with_odds_and_logs(family: Family, activation: Activation, b: np.ndarray) -> np.ndarray:
    zeros, odds = np.split(_with_odds(family, activation, b), [1], 1)
    return np.concatenate([zeros, _with_logs(family, activation, b), odds], 1)


def _cut_points(family: Any, activation: Activation, b: np.ndarray) -> np.ndarray:
    cuts: Tensor = family.cut_points(torch.zeros((), dtype=torch.float64)).detach()
    wide = np.broadcast_to(cuts.reshape(-1, activation.levels - 1), (len(b), activation.levels - 1))
    ends = ((-np.inf, np.inf),)
    return np.pad(wide, ((0, 0), (1, 1)), constant_values=ends)


_PARAMETERS: dict[str, Callable[[Any, Activation, np.ndarray], np.ndarray]] = {
    "ordinal": _cut_points,
    "negative_binomial": _with_logs,
    "negative_binomial_softplus": _with_logs,
    "beta": _with_log_gammas,
    "gamma": _with_powers,
    "tweedie": _with_powers,
    "tweedie_softplus": _with_powers,
    "zero_inflated_poisson": _with_odds,
    "zero_inflated_negative_binomial": _with_odds_and_logs,
}
"""What kernels know of the features, by the name of the activation."""
