r"""The implicit gradient of many rows at once, compiled by Numba.

A block of rows solves for :math:`u = H^{-1} \bar g`, and steps through the features once more to
add its part to the gradients of loading and intercept. Nothing of size rows x features is written.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.any_table import as_cpu_table
from pyro_expfam.deq.cpu.compilation import compiled_once
from pyro_expfam.deq.cpu.dispatch import add_to_gradients, sum_over_features, working_memory
from pyro_expfam.deq.cpu.evaluation import LANES, STRIDE
from pyro_expfam.deq.cpu.linear_algebra import factor_memory, solve_lanes
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Columns


class Gradients(NamedTuple):
    """What all rows of a table add to the gradients.

    Attributes:
        W: the gradient of the loading, ``(d, l)``.
        b: the gradient of the intercept, ``(d,)``.
        u: solutions of the systems, ``(N, l)``; zero where they have none.
        resolved: booleans ``(N,)``, False where the format lacks the digits for the system of a
            row. Such a row adds nothing.
    """

    W: Tensor
    b: Tensor
    u: Tensor
    resolved: Tensor


def sum_over_rows(problem: LatentProblem, z: Tensor, grad: Tensor) -> Gradients:
    """The gradients of loading and intercept through the root, given the gradient of the root."""
    table = as_cpu_table(problem)
    dtype = table.design.loading.dtype
    z_rows, grad_rows = (x.contiguous().numpy().astype(dtype, copy=False) for x in (z, grad))
    pivot = SMALLEST_PIVOT[torch.from_numpy(table.design.loading).dtype]
    u = np.empty_like(z_rows)
    resolved = np.empty(len(z_rows), np.bool_)
    work = partial(
        _sum_over_rows,
        table,
        z_rows,
        grad_rows,
        problem.num_features,
        dtype.type(pivot),
        u,
        resolved,
    )
    parts = in_threads(work, spans(len(z), problem.num_features, ENTRIES_TO_SOLVE))
    total = torch.from_numpy(parts[0] if len(parts) == 1 else np.sum(parts, 0)).to(z.dtype)
    if isinstance(problem.family, Columns):
        # The kernel takes the columns law by law.
        total = problem.family.join([total])
    total = total.T
    solutions = torch.from_numpy(u).to(z.dtype)
    return Gradients(total[:, :-1], total[:, -1], solutions, torch.from_numpy(resolved))


@compiled_once
def _sum_over_rows(table, z, grad, num_features, smallest_pivot, u, resolved, begin, end):
    """What rows from ``begin`` to ``end`` add to the gradients, ``(l + 1, d)``."""
    design = table.design
    latent_dim, dtype = z.shape[1], z.dtype
    packed_size = latent_dim * (latent_dim + 1) // 2
    row = np.zeros(LANES, np.int64)
    latents = np.zeros((len(design.loading), LANES), dtype)
    vectors = np.zeros((3, latent_dim, LANES), dtype)
    sums, target, solution = vectors[0], vectors[1], vectors[2]
    information = np.zeros((packed_size, STRIDE), dtype)
    factor = factor_memory(latent_dim, latents)
    good = np.zeros(LANES, np.bool_)
    work = working_memory(table, latent_dim)
    total = np.zeros((latent_dim + 1, num_features), dtype)
    for first in range(begin, end, LANES):
        for r in range(LANES):
            # Lanes beyond the last row hold that row once more and are not counted.
            row[r] = min(first + r, end - 1)
            for k in range(latent_dim):
                latents[k, r] = z[row[r], k]
                target[k, r] = grad[row[r], k]
        sum_over_features(table, row, latents, sums, information, work)
        solve_lanes(information, target, smallest_pivot, solution, good, factor)
        for r in range(LANES):
            counts = good[r] and first + r < end
            for k in range(latent_dim):
                if not counts:
                    solution[k, r] = 0
                if first + r < end:
                    u[row[r], k] = solution[k, r]
            if first + r < end:
                resolved[row[r]] = good[r]
        add_to_gradients(table, row, latents, solution, work, total)
    return total
