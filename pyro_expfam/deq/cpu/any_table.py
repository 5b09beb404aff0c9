"""What the kernels compute of a table, whatever the activation of its family.

The type of the design says which functions are compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.cpu_table import (
    GROUP,
    CpuDesign,
    CpuTable,
    entries,
    separate_design,
    statistic_loading,
)
from pyro_expfam.deq.cpu.evaluation import LANES, evaluate
from pyro_expfam.deq.cpu.gradients_by_feature import add_features
from pyro_expfam.deq.cpu.linked_table import LinkedDesign, linked_design
from pyro_expfam.deq.cpu.observed import SHARED, add_observed, evaluate_observed
from pyro_expfam.deq.cpu.observed_table import ObservedDesign, observed_design
from pyro_expfam.deq.cpu.softmax import evaluate_levels
from pyro_expfam.deq.cpu.softmax_gradients import add_levels
from pyro_expfam.deq.cpu.softmax_table import SoftmaxDesign, columns_at_once, softmax_design
from pyro_expfam.deq.problem import LatentProblem

DESIGNS = {
    "exponential": separate_design,
    "logistic": separate_design,
    "softmax": softmax_design,
    "negative_binomial": observed_design,
    "gamma": observed_design,
    "probit": linked_design,
    "complementary_log_log": linked_design,
}
"""How designs are made, by the name of the activation."""

EVALUATE = {
    CpuDesign: evaluate,
    SoftmaxDesign: evaluate_levels,
    ObservedDesign: evaluate_observed,
    LinkedDesign: evaluate_observed,
}
"""Sums over the features of means times loadings, and the information, by the type of design."""

ADD = {
    CpuDesign: add_features,
    SoftmaxDesign: add_levels,
    ObservedDesign: add_observed,
    LinkedDesign: add_observed,
}
"""What rows add to the gradients, by the type of design."""


def as_cpu_table(problem: LatentProblem) -> CpuTable:
    """A problem without batch dimensions as the kernels read it."""
    activation = activation_of(problem.family)
    assert activation is not None
    return CpuTable(
        DESIGNS[activation.name](problem),
        _observed(problem).contiguous().numpy(),
        entries(problem.offset, problem.b),
        entries(problem.weights, problem.b),
    )


def _observed(problem: LatentProblem) -> Tensor:
    statistic = problem.entries.statistic
    return problem.y if statistic is None else statistic


def linear_part(table: CpuTable, latent_dim: int) -> np.ndarray:
    """The part of the scores that is the same at all latents, ``T(y) W``, ``(N, l)``."""
    if isinstance(table.design, ObservedDesign):
        return np.zeros((len(table.observed), latent_dim), table.observed.dtype)
    return statistic_loading(table, latent_dim)


def sum_over_features(table: Any, row: Any, z: Any, sums: Any, information: Any, work: Any) -> None:
    """Means times loadings, and the information, of all lanes; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def add_to_gradients(table: Any, row: Any, z: Any, u: Any, work: Any, total: Any) -> None:
    """Adds what all lanes contribute to the gradients, by feature; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def working_memory(table: Any, latent_dim: Any) -> Any:
    """Memory that these functions keep between their calls; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def _kind(table: Any) -> Any:
    return table[table.fields.index("design")].instance_class


@overload(sum_over_features, jit_options=INLINED)
def _sum_over_features(table, row, z, sums, information, work):
    function = EVALUATE[_kind(table)]
    return lambda table, row, z, sums, information, work: function(
        table, row, z, sums, information, work
    )


@overload(add_to_gradients, jit_options=INLINED)
def _add_to_gradients(table, row, z, u, work, total):
    function = ADD[_kind(table)]
    return lambda table, row, z, u, work, total: function(table, row, z, u, work, total)


@overload(working_memory, jit_options=INLINED)
def _working_memory(table, latent_dim):
    return MEMORY[_kind(table)]


def _memory_of_features(table, latent_dim):
    return np.zeros((SHARED, LANES), table.design.loading.dtype)


def _memory_of_observed(table, latent_dim):
    loading = table.design.loading
    # No lane has a row yet.
    loaded = np.full(LANES, -1)
    return np.zeros((SHARED + loading.shape[1], LANES), loading.dtype), loaded


def _memory_of_levels(table, latent_dim):
    levels = table.design.levels
    columns = columns_at_once(levels)
    size = max(columns * (levels + latent_dim) + 2 * GROUP * latent_dim, 2 * levels + 2) + 2
    return np.zeros((size, LANES), table.design.loading.dtype)


MEMORY = {
    CpuDesign: _memory_of_features,
    SoftmaxDesign: _memory_of_levels,
    ObservedDesign: _memory_of_observed,
    LinkedDesign: _memory_of_observed,
}
"""The working memory, by the type of design."""
