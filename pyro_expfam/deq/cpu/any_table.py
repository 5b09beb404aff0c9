"""What the kernels compute of a table, whatever the activation of its family."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.cpu_table import GROUP, CpuTable, entries, separate_design
from pyro_expfam.deq.cpu.evaluation import LANES, evaluate
from pyro_expfam.deq.cpu.gradients_by_feature import add_features
from pyro_expfam.deq.cpu.softmax import evaluate_levels
from pyro_expfam.deq.cpu.softmax_gradients import add_levels
from pyro_expfam.deq.cpu.softmax_table import SoftmaxDesign, columns_at_once, softmax_design
from pyro_expfam.deq.problem import LatentProblem


def as_cpu_table(problem: LatentProblem) -> CpuTable:
    """A problem without batch dimensions as the kernels read it."""
    activation = activation_of(problem.family)
    assert activation is not None
    design = softmax_design if activation.name == "softmax" else separate_design
    return CpuTable(
        design(problem), entries(problem.offset, problem.b), entries(problem.weights, problem.b)
    )


def sum_over_features(table: Any, row: Any, z: Any, sums: Any, information: Any, work: Any) -> None:
    """Means times loadings, and the information, of all lanes; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def add_to_gradients(
    table: Any, statistic: Any, row: Any, z: Any, u: Any, work: Any, total: Any
) -> None:
    """Adds what all lanes contribute to the gradients, by feature; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def working_memory(table: Any, latent_dim: Any) -> Any:
    """Memory for these functions, ``(..., lanes)``; for compiled functions."""
    raise NotImplementedError("only for compiled functions")


def _couples_levels(table: Any) -> bool:
    return table[table.fields.index("design")].instance_class is SoftmaxDesign


@overload(sum_over_features, jit_options=OPTIONS)
def _sum_over_features(table, row, z, sums, information, work):
    if _couples_levels(table):
        return lambda table, row, z, sums, information, work: evaluate_levels(
            table, row, z, sums, information, work
        )
    return lambda table, row, z, sums, information, work: evaluate(
        table, row, z, sums, information, work
    )


@overload(add_to_gradients, jit_options=OPTIONS)
def _add_to_gradients(table, statistic, row, z, u, work, total):
    if _couples_levels(table):
        return lambda table, statistic, row, z, u, work, total: add_levels(
            table, statistic, row, z, u, work, total
        )
    return lambda table, statistic, row, z, u, work, total: add_features(
        table, statistic, row, z, u, work, total
    )


@overload(working_memory, jit_options=OPTIONS)
def _working_memory(table, latent_dim):
    if _couples_levels(table):
        return _memory_of_levels
    return _memory_of_features


def _memory_of_features(table, latent_dim):
    return np.zeros((1 + 2 * GROUP, LANES), table.design.loading.dtype)


def _memory_of_levels(table, latent_dim):
    levels = table.design.levels
    columns = columns_at_once(levels)
    size = max(columns * (levels + latent_dim) + 2 * GROUP * latent_dim, 2 * levels + 2) + 2
    return np.zeros((size, LANES), table.design.loading.dtype)
