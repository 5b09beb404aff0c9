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
from pyro_expfam.deq.row_block import Design, RowBlock
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


def solve_compiled(rows: RowBlock, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves some rows, from latents ``start`` ``(N, l)``, into ``out``."""
    # Only here: it takes a second to import.
    from pyro_expfam.deq import cpu_kernel

    number = start.numpy().dtype.type
    table = cpu_kernel.Table(
        **_padded_design(rows, cpu_kernel.GROUP),
        largest_exponent=number(cpu_kernel.LARGEST_EXPONENT[number]),
        precision=number(rows.design.precision),
        self_concordance=number(rows.family.self_concordance),
        rate=number(max(rows.design.largest_rate, _SMALLEST_RATE)),
        statistic_loading=rows.statistic_loading.T.contiguous().numpy(),
        offset=_by_entry(rows.offset, start, rows.design),
        weights=_by_entry(rows.weights, start, rows.design),
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
    spans = _spans(len(start), rows.design.loading.shape[1])
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


def _padded_design(rows: RowBlock, group: int) -> dict[str, Any]:
    """What a table of the kernel has of the design, with features in whole groups."""
    design = rows.design
    latent_dim, num_features = design.loading.shape
    wider = -num_features % group
    activation = activation_of(rows.family)
    assert activation is not None
    is_exponential = activation.name == "exponential"
    size = torch.as_tensor(activation.size, dtype=design.loading.dtype).expand(num_features)
    # Odds are those against: they fall with the natural parameter.
    unit = (1 if is_exponential else -activation.slope) / math.log(2)
    number = design.loading.numpy().dtype.type
    loading = torch.nn.functional.pad(design.loading, (0, wider, 0, latent_dim % 2))

    def padded(x: Tensor) -> Any:
        return torch.nn.functional.pad(x, (0, wider)).numpy()

    return {
        "loading": loading.numpy(),
        "products": padded(activation.slope * size * design.loading_products),
        "exponent_loading": (unit * loading).numpy(),
        "exponent_intercept": padded(unit * design.intercept),
        "unit": number(unit),
        "mean_loading": padded(size * design.loading),
        "centre": number(activation.shift / float(size[0])),
        "exponential": is_exponential,
    }


def _by_entry(entries: Tensor | None, start: Tensor, design: Design) -> np.ndarray:
    if entries is None:
        return start.new_empty(0, 1).numpy()
    return entries.expand(len(start), design.loading.shape[1]).contiguous().numpy()


def _spans(num_rows: int, num_features: int) -> list[tuple[int, int]]:
    """Spans of rows for as many threads as PyTorch may use and the work is worth."""
    worth = 1 + num_rows * num_features // ENTRIES_OF_A_THREAD
    num_spans = min(torch.get_num_threads(), worth)
    return list(pairwise(num_rows * k // num_spans for k in range(num_spans + 1)))
