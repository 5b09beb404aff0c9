"""The root of a small table with the log densities of its rows, in one go.

A step of training on a few thousand entries costs less in the kernels than in what is around them.
Here their arrays are made once for all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.cpu_table import (
    CpuTable,
    arrays_of_design,
    coefficients,
    design_of,
    entries,
    multiply,
    numbers_of_design,
    size_by_feature,
)
from pyro_expfam.deq.cpu.lanes import CpuRows, Result
from pyro_expfam.deq.cpu.likelihood import (
    RowLikelihoods,
    cancel,
    has_likelihood,
    likelihoods_by_arrays,
    values,
    with_base_measures,
)
from pyro_expfam.deq.cpu.scalar_rules import in_dtype
from pyro_expfam.deq.cpu.solving import ROWS_OF_A_GRID, solve
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules

__all__ = ["cancel", "has_likelihood", "solve_small", "values"]


def solve_small(
    problem: LatentProblem, rules: StepRules, start: Tensor
) -> tuple[Solution, RowLikelihoods] | None:
    """The root of a problem that has likelihoods, and these; or None.

    None for a table that several threads share or whose starts come from a grid, for a prior that
    is not about zero, and where a row has not converged.

    Args:
        problem: the problem.
        rules: of the solver.
        start: latents to start from, ``(N, l)``.
    """
    num_rows = problem.num_rows
    if num_rows * problem.num_features >= ENTRIES_TO_SOLVE or num_rows >= ROWS_OF_A_GRID:
        return None
    if problem.loc is not None or problem.stored is not None:
        return None
    activation = activation_of(problem.family)
    assert activation is not None
    W, b = coefficients(problem)
    # The sufficient statistics of bits and counts are the observations.
    y = problem.y.contiguous().numpy()
    offset, nothing = entries(problem.offset, problem.b), entries(None, problem.b)
    numbers = numbers_of_design(problem.family, activation, b.dtype)
    size = size_by_feature(activation, b)
    arrays, linear = _prepare(W, b, size, *numbers[:3], y, nothing)
    precision = problem.precision.item()
    design = design_of(W, arrays, numbers, activation, b.dtype.type(precision))
    first = np.ascontiguousarray(start.numpy())
    kernel_rules = in_dtype(rules.for_variance(problem.family.bounded_variance), b.dtype)
    result = Result(
        np.empty(first.shape, b.dtype),
        np.empty(num_rows, np.bool_),
        np.empty(num_rows, np.int64),
        np.empty(num_rows, b.dtype),
    )
    table, rows = CpuTable(design, y, offset, nothing), CpuRows(linear, first)
    solve(table, rows, kernel_rules, result, 0, num_rows)
    if np.count_nonzero(result.converged) < num_rows:
        return None
    loading = design.loading[: problem.latent_dim]
    found = likelihoods_by_arrays(
        activation, loading, b, y, offset, result.value, precision, [(0, num_rows)]
    )
    return Solution(*map(torch.from_numpy, result)), with_base_measures(problem, found)


@compiled_once
def _prepare(W, b, size, unit, slope, self_concordance, y, nothing):
    """The arrays of a design, and the part of the scores that is the same at all latents."""
    arrays = arrays_of_design(W, b, size, unit, slope, self_concordance)
    linear = np.empty((len(y), W.shape[1]), W.dtype)
    multiply(y, nothing, arrays[1][: W.shape[1]], linear, 0, len(y))
    return arrays, linear
