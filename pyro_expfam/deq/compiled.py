"""When and how the compiled kernel solves rows in place of PyTorch operations."""

from __future__ import annotations

import math
import threading
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules
from pyro_expfam.families import Family

LARGEST_LATENT_DIM, LARGEST_NUM_FEATURES = 16, 1_000
"""Up to here the kernel is faster, measured on two CPU threads: 1 to 8 times for 50 and 500
features. At 2,000 features matrix products for the information are, up to twice."""

ENTRIES_OF_A_THREAD = 1 << 17
"""Entries of rows x features that are worth starting another thread."""


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


def solve_compiled(
    problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution
) -> None:
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
        statistic_loading=(statistic @ problem.W).numpy(),
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
    threads = [
        threading.Thread(target=cpu_kernel.solve, args=(table, kernel_rules, result, *span))
        for span in spans[1:]
    ]
    for thread in threads:
        thread.start()
    cpu_kernel.solve(table, kernel_rules, result, *spans[0])
    for thread in threads:
        thread.join()


_SMALLEST_RATE = 1e-18
"""Without loadings there is no rate; its square is still a number of float32."""


def _design(problem: LatentProblem) -> Any:
    """What is the same for all rows of a problem."""
    from pyro_expfam.deq import cpu_kernel

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
        largest_exponent=number(cpu_kernel.LARGEST_EXPONENT[number]),
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
