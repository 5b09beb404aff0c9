"""The part of the deviance of a table that each component explains."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.estimators.components import Components


@torch.no_grad()
def deviance_without(problem: LatentProblem, scores: Tensor, components: Components) -> Tensor:
    """The deviance of a table without each component, the others kept, ``(l,)``.

    Args:
        problem: the problem of the latents of the table, in double precision.
        scores: the scores of the rows, ``(N, l)``.
        components: the components.
    """
    count = len(components.rows)
    kept = ~torch.eye(count, dtype=torch.bool)
    return torch.stack([_deviance(problem, scores * keep, components) for keep in kept])


@torch.no_grad()
def deviance_of_first(problem: LatentProblem, scores: Tensor, components: Components) -> Tensor:
    """The deviance of a table under its first 0, 1, ..., l components, ``(l + 1,)``."""
    count = len(components.rows)
    kept = torch.ones(count + 1, count).tril(-1).bool()
    return torch.stack([_deviance(problem, scores * keep, components) for keep in kept])


def _deviance(problem: LatentProblem, scores: Tensor, components: Components) -> Tensor:
    latents = scores @ components.from_scores.mT
    total = torch.zeros((), dtype=problem.b.dtype)
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        found = rows.family.deviance(rows.y, rows.predictor(latents[tile]))
        if rows.weights is not None:
            found = torch.where(rows.weights > 0, rows.weights * found, 0.0)
        total += found.sum()
    return total
