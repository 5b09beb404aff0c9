"""Intercepts and coefficients of covariates of a model without latents: a regression per column."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.table import Sums

STEPS = 30
SMALL_DECREMENT = 1e-2
"""Coefficients are exact enough when they are this far from the best ones, on average over columns:
the squared distance in standard errors."""

LONGEST = 1.0
"""The longest step, as the root mean square change of the linear predictors of a column."""


def fit_known(
    problem: Objective, start: Tensor, max_steps: int = STEPS, at_rest: float | None = None
) -> Tensor:
    """Intercepts and coefficients of covariates without latents, ``(d, 1 + p)``.

    Steps of Fisher scoring are bounded, and a column takes no step that increases its own loss. By
    default the result is accurate to about a tenth of the standard errors, which suffices for a
    start.

    Args:
        problem: the objective, for its table and its priors.
        start: coefficients to start from, ``(d, 1 + p)``.
        max_steps: the most steps.
        at_rest: twice the decrease that a step may still promise over all columns.
    """
    if at_rest is None:
        at_rest = SMALL_DECREMENT * len(start)
    size = start.shape[1]
    precision = problem.known_precision(start)
    row, column = torch.tril_indices(size, size, device=start.device)

    def of_rows(place: slice, rows: LatentProblem) -> Sums:
        del place
        assert rows.offset is not None
        eta, known = rows.b + rows.offset, rows.design(rows.y[:, :0])
        products = known[:, row] * known[:, column]
        losses = rows.losses(eta).sum(0, dtype=torch.float64)
        return losses, rows.scores(eta).mT @ known, rows.informations(eta).mT @ products

    at, step = start.clone(), torch.zeros_like(start)
    best = torch.full_like(start[:, 0], torch.inf, dtype=torch.float64)
    for _ in range(max_steps):
        trial = at + step
        loss, score, packed = problem.sum(trial, of_rows)
        loss = loss + 0.5 * (precision * trial.square()).sum(1)
        better = loss <= best
        at = torch.where(better[:, None], trial, at)
        best = torch.where(better, loss, best)
        information = start.new_empty(len(start), size, size)
        information[:, row, column] = packed
        information[:, column, row] = packed
        information.diagonal(dim1=-2, dim2=-1).add_(precision + 1e-6)
        gradient = score - precision * trial
        found, failed = torch.linalg.solve_ex(information, gradient.unsqueeze(-1))
        found = found.squeeze(-1)
        usable = better & (failed == 0) & found.isfinite().all(1)
        step = torch.where(usable[:, None], _bounded(problem, found), step / 2)
        decrement = (gradient * found).sum(1)[usable].sum()
        if bool(usable.all()) and float(decrement) <= at_rest:
            break
    return at


def _bounded(problem: Objective, step: Tensor) -> Tensor:
    """A step that changes no column's linear predictors by more than 1 in the root mean square."""
    gram = (problem.table.gram / problem.table.num_rows).to(step)
    change = ((step @ gram) * step).sum(1, keepdim=True).clamp(min=0).sqrt()
    return step * (LONGEST / change.clamp(min=LONGEST))
