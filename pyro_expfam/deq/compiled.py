"""When and how the compiled kernel solves rows in place of PyTorch operations."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.step_rules import StepRules
from pyro_expfam.families import Family

LARGEST_LATENT_DIM, LARGEST_NUM_FEATURES = 16, 1_000
"""Up to here the kernel is faster, measured on two CPU threads: 1 to 8 times for 50 and 500
features. At 2,000 features matrix products for the information are, up to twice."""

ENTRIES_OF_A_THREAD = 1 << 17
"""Entries of rows x features that are worth starting another thread."""


GRID_SIZE = {1: 512, 2: 32}
"""Statistics along each latent of the grid that starts a large table, by number of latents."""

ROWS_OF_A_GRID = 16_000
"""Fewer rows take about as long without it."""


def can_be_compiled(problem: LatentProblem) -> bool:
    """Whether the kernel can solve a problem, and is the faster way."""
    return (
        problem.W.device.type == "cpu"
        and problem.latent_dim <= LARGEST_LATENT_DIM
        and problem.W.shape[0] <= LARGEST_NUM_FEATURES
        and _has_kernel(problem.family, problem.W.shape[0])
        and _numba_is_installed()
    )


@cache
def _numba_is_installed() -> bool:
    return find_spec("numba") is not None


def _has_kernel(family: Family, num_features: int) -> bool:
    activation = activation_of(family)
    if activation is None or activation.name not in ("exponential", "logistic"):
        return False
    # By feature or for all: a table of sizes has no lanes.
    size = torch.as_tensor(activation.size)
    return size.numel() == 1 or size.shape == (num_features,)


def solve_compiled(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves the rows of a problem, from latents ``start`` ``(N, l)``, into ``out``."""
    # Only here: it takes a second to import.
    from pyro_expfam.deq import cpu_kernel

    number = start.numpy().dtype.type
    design = _design(problem)
    statistic = problem.weighted(problem.statistic)
    largest_norm = float(problem.W.square().sum(1).amax().sqrt())
    self_concordance = problem.family.self_concordance
    table = cpu_kernel.Table(
        design,
        self_concordance=number(self_concordance),
        rate=number(max(self_concordance * largest_norm, _SMALLEST_RATE)),
        # In this order it takes half the time.
        statistic_loading=(problem.W.T @ statistic.T).T.contiguous().numpy(),
        offset=_by_entry(problem.offset, problem.statistic),
        weights=_by_entry(problem.weights, problem.statistic),
        start=start.contiguous().numpy(),
    )
    kernel_rules = cpu_kernel.Rules(
        number(rules.tolerance),
        number(rules.safe_change),
        number(rules.last_step),
        number(rules.eager_change),
        number(rules.smallest_pivot),
        shorten_unresolved=start.dtype == torch.float64,
        max_iter=rules.max_iter,
    )
    result = cpu_kernel.Result(*(field.numpy() for field in out))
    spans = _spans(len(start), len(problem.W))
    if _is_worth_a_grid(problem, start):
        _start_from_grid(table, kernel_rules, spans)
    _in_threads(partial(cpu_kernel.solve, table, kernel_rules, result), spans)


def _is_worth_a_grid(problem: LatentProblem, start: Tensor) -> bool:
    return (
        problem.offset is None
        and problem.weights is None
        # Of one value for all rows, which the caller has not chosen by row.
        and start.stride(0) == 0
        and problem.latent_dim in GRID_SIZE
        and problem.num_rows >= ROWS_OF_A_GRID
    )


def _start_from_grid(table: Any, rules: Any, spans: list[tuple[int, int]]) -> None:
    """Makes the roots on a grid of statistics the start of all rows."""
    from pyro_expfam.deq import cpu_kernel, cpu_start

    statistics = table.statistic_loading
    size = GRID_SIZE[statistics.shape[1]]
    low, high = (ends.numpy() for ends in torch.from_numpy(statistics).aminmax(dim=0))
    axes = [np.linspace(*ends, size, dtype=low.dtype) for ends in zip(low, high, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    roots = unsolved(torch.zeros(nodes.shape, dtype=torch.from_numpy(nodes).dtype))
    result = cpu_kernel.Result(*(field.numpy() for field in roots))
    on_grid = table._replace(statistic_loading=nodes, start=np.zeros_like(nodes))
    cpu_kernel.solve(on_grid, rules, result, 0, len(nodes))
    spacing = np.maximum((high - low) / (size - 1), np.finfo(low.dtype).tiny)
    grid = cpu_start.Grid(low, spacing, size)
    _in_threads(partial(cpu_start.interpolate, grid, result.value, statistics, table.start), spans)


def _in_threads(work: Callable[[int, int], None], spans: list[tuple[int, int]]) -> None:
    """Does the work on every span at the same time."""
    threads = [threading.Thread(target=work, args=span) for span in spans[1:]]
    for thread in threads:
        thread.start()
    work(*spans[0])
    for thread in threads:
        thread.join()


_SMALLEST_RATE = 1e-18
"""Without loadings there is no rate; its square is still a number of float32."""


def _design(problem: LatentProblem) -> Any:
    """What is the same for all rows of a problem."""
    from pyro_expfam.deq import cpu_kernel
    from pyro_expfam.deq.cpu_exponential import LARGEST_EXPONENT

    activation = activation_of(problem.family)
    assert activation is not None
    W, b = problem.W, problem.b
    num_features, latent_dim = W.shape
    number = b[:0].numpy().dtype.type
    # Odds are those against: they fall with the natural parameter.
    unit = (-activation.slope if activation.name == "logistic" else 1.0) / math.log(2)
    size = torch.as_tensor(activation.size, dtype=W.dtype).expand(num_features)
    by_feature = torch.stack([b * unit, size, size * activation.slope])
    padding = (0, -num_features % cpu_kernel.GROUP)
    by_feature = torch.nn.functional.pad(by_feature, padding)
    loading = torch.nn.functional.pad(W.T, (*padding, 0, latent_dim % 2)).contiguous()
    exponent_intercept, mean_scale, variance_scale = by_feature
    row, column = _triangle(latent_dim)
    return cpu_kernel.Design(
        loading=loading.numpy(),
        exponent_loading=(unit * loading).numpy(),
        exponent_intercept=exponent_intercept.numpy(),
        unit=number(unit),
        largest_exponent=number(LARGEST_EXPONENT[number]),
        centre=number(activation.shift / float(size[0])),
        mean_loading=(mean_scale * loading).numpy(),
        products=(loading[row] * loading[column]).mul_(variance_scale).numpy(),
        exponential=activation.name == "exponential",
        precision=number(problem.precision),
    )


@cache
def _triangle(size: int) -> tuple[Tensor, Tensor]:
    """The rows and columns of the entries of a lower triangle."""
    row, column = torch.tril_indices(size, size)
    return row, column


def _by_entry(entries: Tensor | None, statistic: Tensor) -> np.ndarray:
    if entries is None:
        return statistic.new_empty(0, 1).numpy()
    return entries.expand(statistic.shape).contiguous().numpy()


def _spans(num_rows: int, num_features: int) -> list[tuple[int, int]]:
    """Spans of rows for as many threads as PyTorch may use and the work is worth."""
    worth = 1 + num_rows * num_features // ENTRIES_OF_A_THREAD
    num_spans = min(torch.get_num_threads(), worth)
    return list(pairwise(num_rows * k // num_spans for k in range(num_spans + 1)))
