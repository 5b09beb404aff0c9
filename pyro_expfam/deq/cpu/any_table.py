"""What the kernels compute of a table, whatever the activation of its family.

The type of the design says which functions are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.cpu_table import (
    CpuDesign,
    CpuTable,
    coefficients,
    entries,
    separate_design,
    statistic_loading,
)
from pyro_expfam.deq.cpu.dispatch import add_to_gradients, sum_over_features, working_memory
from pyro_expfam.deq.cpu.evaluation import LANES, SHARED, STRIDE, evaluate, panel_memory
from pyro_expfam.deq.cpu.gradients_by_feature import add_features
from pyro_expfam.deq.cpu.linked_table import (
    LinkedDesign,
    SingleLinkedDesign,
    linked_design,
    single_linked_design,
)
from pyro_expfam.deq.cpu.mixed import (
    MixedDesign,
    add_mixed,
    evaluate_mixed,
    memory_of_mixed,
    mixed_design,
)
from pyro_expfam.deq.cpu.observed import add_observed, evaluate_observed
from pyro_expfam.deq.cpu.observed_table import ObservedDesign, observed_design
from pyro_expfam.deq.cpu.ordinal import (
    add_ordinal,
    evaluate_ordinal,
    memory_of_ordinal,
)
from pyro_expfam.deq.cpu.ordinal_table import OrdinalDesign, ordinal_design
from pyro_expfam.deq.cpu.quadratic import (
    QuadraticDesign,
    add_quadratic,
    evaluate_quadratic,
    linear_part_of,
    memory_of_quadratic,
    quadratic_design,
)
from pyro_expfam.deq.cpu.registers import BYTES
from pyro_expfam.deq.cpu.searched_table import SearchedDesign, memory_of_search
from pyro_expfam.deq.cpu.softmax import evaluate_levels
from pyro_expfam.deq.cpu.softmax_gradients import add_levels
from pyro_expfam.deq.cpu.softmax_table import (
    LEVELS_AT_ONCE,
    SoftmaxDesign,
    columns_at_once,
    softmax_design,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families.kinds import Kind, take

DESIGNS = {
    "exponential": separate_design,
    "logistic": separate_design,
    "continuous_bernoulli": separate_design,
    "softmax": softmax_design,
    "negative_binomial": observed_design,
    "gamma": observed_design,
    "probit": linked_design,
    "complementary_log_log": linked_design,
    "ordinal": ordinal_design,
    "identity": quadratic_design,
}
"""How designs are made, by the name of the activation."""

SUMMARISED = (CpuDesign, SoftmaxDesign)
"""Designs of laws whose observations enter through the linear part alone."""

EVALUATE = {
    CpuDesign: evaluate,
    SoftmaxDesign: evaluate_levels,
    ObservedDesign: evaluate_observed,
    LinkedDesign: evaluate_observed,
    SingleLinkedDesign: evaluate_observed,
    OrdinalDesign: evaluate_ordinal,
    QuadraticDesign: evaluate_quadratic,
    MixedDesign: evaluate_mixed,
}
"""Sums over the features of means times loadings, and the information, by the type of design."""

ADD = {
    CpuDesign: add_features,
    SoftmaxDesign: add_levels,
    ObservedDesign: add_observed,
    LinkedDesign: add_observed,
    OrdinalDesign: add_ordinal,
    QuadraticDesign: add_quadratic,
    MixedDesign: add_mixed,
}
"""What rows add to the gradients, by the type of design."""


def as_cpu_table(problem: LatentProblem) -> CpuTable:
    """A problem without batch dimensions as the kernels read it."""
    if problem.family.num_columns is not None:
        return _mixed_table(problem, list(problem.kinds), _part)
    activation = activation_of(problem.family)
    assert activation is not None
    return CpuTable(
        DESIGNS[activation.name](problem),
        _observed(problem).contiguous().numpy(),
        entries(problem.offset, problem.b),
        entries(problem.weights, problem.b),
    )


def single_linked_table(problem: LatentProblem) -> CpuTable:
    """A problem of bits or counts under a link as the kernel of certified steps reads it."""
    return CpuTable(
        single_linked_design(problem),
        _observed(problem).contiguous().numpy(),
        entries(problem.offset, problem.b),
        entries(problem.weights, problem.b),
    )


def table_to_solve(problem: LatentProblem) -> tuple[CpuTable, np.ndarray]:
    """A problem as the kernel that solves it reads it, and its :func:`linear_part`.

    The kernel reads sufficient statistics in the linear part alone. In a mixed table they are
    multiplied in the order of its columns, and are not copied law by law.
    """
    if problem.family.num_columns is None:
        table = as_cpu_table(problem)
        if problem.stored is not None:
            loading = torch.from_numpy(coefficients(problem)[0])
            return table, problem.stored.times(loading).numpy()
        return table, linear_part(table, problem.latent_dim)
    table = _mixed_table(problem, list(problem.kinds), _part_without_statistics)
    loading, others = torch.from_numpy(coefficients(problem)[0].copy()), []
    for part, kind in zip(_parts(table), problem.kinds, strict=True):
        if not isinstance(part.design, SUMMARISED):
            loading[kind.predictors] = 0
            others.append(linear_part(part, problem.latent_dim))
    # The sufficient statistics of these laws are the observations.
    linear = (problem.weighted(problem.y) @ loading).numpy()
    return table, sum(others, linear)


def _parts(table: CpuTable) -> list[CpuTable]:
    """The tables of the laws of a table."""
    if not isinstance(table.design, MixedDesign):
        return [table]
    return [table.design.first, *_parts(table.design.others)]


def rows_are_alike(table: CpuTable) -> bool:
    """Whether rows with the same linear part have the same root, without offset and weights."""
    return all(isinstance(part.design, (*SUMMARISED, QuadraticDesign)) for part in _parts(table))


def _part(problem: LatentProblem, kind: Kind) -> CpuTable:
    return as_cpu_table(problem.predictors(kind.family, kind.predictors))


def _part_without_statistics(problem: LatentProblem, kind: Kind) -> CpuTable:
    activation = activation_of(kind.family)
    if activation is None or DESIGNS[activation.name] not in (separate_design, softmax_design):
        return _part(problem, kind)
    # Nothing reads the observations, which are not copied.
    nothing = replace(problem, y=problem.y[..., :0], map=problem.map.predictors(kind.predictors))
    return as_cpu_table(
        replace(
            nothing,
            family=kind.family,
            b=take(problem.b, kind.predictors),
            offset=_of_kind(problem.offset, kind),
            weights=_of_kind(problem.weights, kind),
        )
    )


def _of_kind(entries: Tensor | None, kind: Kind) -> Tensor | None:
    # A single column broadcasts to all columns.
    return entries if entries is None or entries.shape[-1] == 1 else take(entries, kind.predictors)


def _mixed_table(
    problem: LatentProblem,
    kinds: list[Kind],
    part: Callable[[LatentProblem, Kind], CpuTable],
) -> CpuTable:
    """The table of some of the laws of a mixed table, from the table of each."""
    kind, *others = kinds
    first = part(problem, kind)
    if not others:
        return first
    # The first law holds the prior.
    no_prior = replace(problem, precision=torch.zeros_like(problem.precision))
    design = mixed_design(problem, first, _mixed_table(no_prior, others, part))
    nothing = entries(None, problem.b)
    return CpuTable(design, nothing, nothing, nothing)


def _observed(problem: LatentProblem) -> Tensor:
    statistic = problem.entries.statistic
    return problem.y if statistic is None else statistic


def linear_part(table: CpuTable, latent_dim: int) -> np.ndarray:
    """The part of the scores that is the same at all latents, ``T(y) W``, ``(N, l)``."""
    if isinstance(table.design, MixedDesign):
        first, others = table.design.first, table.design.others
        return linear_part(first, latent_dim) + linear_part(others, latent_dim)
    if isinstance(table.design, QuadraticDesign):
        return linear_part_of(table)
    if isinstance(table.design, ObservedDesign | OrdinalDesign):
        return np.zeros((len(table.observed), latent_dim), table.observed.dtype)
    return statistic_loading(table, latent_dim)


def _kind(table: Any) -> Any:
    return table[table.fields.index("design")].instance_class


@overload(sum_over_features, jit_options=INLINED)
def _sum_over_features(table, row, z, sums, information, work):
    function = EVALUATE[_kind(table)]
    if function is evaluate_mixed:
        # Compiled anew for each type, since it calls itself for the table of the other laws.
        return function
    return lambda table, row, z, sums, information, work: function(
        table, row, z, sums, information, work
    )


@overload(add_to_gradients, jit_options=INLINED)
def _add_to_gradients(table, row, z, u, work, total):
    function = ADD[_kind(table)]
    if function is add_mixed:
        return function
    return lambda table, row, z, u, work, total: function(table, row, z, u, work, total)


@overload(working_memory, jit_options=INLINED)
def _working_memory(table, latent_dim):
    return MEMORY[_kind(table)]


def _memory_of_features(table, latent_dim):
    loading = table.design.loading
    return np.zeros((SHARED, LANES), loading.dtype), panel_memory(latent_dim, loading)


def _memory_of_observed(table, latent_dim):
    loading = table.design.loading
    return (
        np.zeros((SHARED, LANES), loading.dtype),
        panel_memory(latent_dim, loading),
        np.zeros((loading.shape[1], STRIDE), loading.dtype),
        # No lane has a row yet.
        np.full(LANES, -1),
    )


def _memory_of_levels(table, latent_dim):
    levels, dtype = table.design.levels, table.design.loading.dtype
    size = max(columns_at_once(levels) * (levels + latent_dim), 2 * levels + 2) + 2
    one = BYTES // table.design.loading.itemsize
    deviations = np.zeros((LEVELS_AT_ONCE * latent_dim, one), dtype)
    return np.zeros((size, LANES), dtype), deviations


MEMORY = {
    CpuDesign: _memory_of_features,
    SoftmaxDesign: _memory_of_levels,
    ObservedDesign: _memory_of_observed,
    LinkedDesign: _memory_of_observed,
    SingleLinkedDesign: _memory_of_observed,
    OrdinalDesign: memory_of_ordinal,
    QuadraticDesign: memory_of_quadratic,
    MixedDesign: memory_of_mixed,
    SearchedDesign: memory_of_search,
}
"""The working memory, by the type of design."""
