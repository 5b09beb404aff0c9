"""Losses, residuals and informations of the entries of a tile by the functions of laws."""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import evidence_observations
from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.evidence_laws import function_at
from pyro_expfam.deq.cpu.evidence_table import (
    BEGIN,
    COUNT,
    END,
    FUNCTION,
    laws_of,
    order_of,
    parameters_of,
)
from pyro_expfam.deq.cpu.law_informations import information_at
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families.kinds import take

INFORMATION = 5
"""The place of the address of the function of an expected information, or 0, after these."""


def law_terms(problem: LatentProblem, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of the entries of rows at linear predictors.

    Args:
        problem: the rows, of laws with a function each.
        matrices: linear predictors, and two matrices to be overwritten, ``(3, n, d)``.

    Returns:
        The sums of the weighted losses by row, in float64, ``(n,)``, and weighted residuals and
        informations, ``(n, d)``, which lie in the matrices.
    """
    eta, residual, curvature = matrices
    laws = laws_of(problem)
    order = order_of(laws)
    observed = [
        evidence_observations(x.kind.family, take(problem.y, x.kind.predictors)) for x in laws
    ]
    y = observed[0] if len(observed) == 1 else torch.cat(observed, -1)
    parameters = parameters_of(laws, np.zeros(eta.shape[-1]))
    rows = np.zeros((len(laws), 6), np.int64)
    for place, law in enumerate(laws):
        name = law.activation.name
        rows[place, [BEGIN, END, FUNCTION]] = law.begin, law.end, function_at(name)
        # The second derivative is the information of a convex loss.
        rows[place, INFORMATION] = 0 if law.kind.family.is_convex else information_at(name)
        rows[place, COUNT] = parameters[place].shape[1]
    numbers = np.zeros((eta.shape[-1], rows[:, COUNT].max()))
    for law, own in zip(laws, parameters, strict=True):
        numbers[law.begin : law.end, : own.shape[1]] = own
    places = np.arange(eta.shape[-1]) if order is None else order.numpy()
    weights = problem.weights
    weights = eta.new_empty(0, 0) if weights is None else weights.expand(eta.shape).contiguous()
    losses = np.zeros(len(eta))
    table = (rows, numbers, places, eta.numpy(), y.contiguous().numpy(), weights.numpy())
    work = partial(_find_terms, table, (residual.numpy(), curvature.numpy(), losses))
    in_threads(work, spans(len(eta), eta.shape[1], ENTRIES_TO_SOLVE))
    return torch.from_numpy(losses), residual, curvature


@compiled_once
def _find_terms(table, out, begin, end):
    """The terms of the rows from ``begin`` to ``end``, some at a time in lanes."""
    whole_registers()
    laws, parameters, places, eta, y, weights = table
    residual, curvature, losses = out
    x, observed, found = np.empty(LANES), np.empty(LANES), np.empty((6, LANES))
    for first in range(begin, end, LANES):
        count = min(LANES, end - first)
        for p in range(len(laws)):
            function, number, expected = laws[p, FUNCTION], laws[p, COUNT], laws[p, INFORMATION]
            for i in range(laws[p, BEGIN], laws[p, END]):
                column = places[i]
                for r in range(LANES):
                    # Idle lanes repeat the last row.
                    s = first + min(r, count - 1)
                    x[r], observed[r] = eta[s, column], y[s, i]
                call(function, x, observed, parameters[i], found, number)
                if expected:
                    call(expected, x, observed, parameters[i], found, number)
                _write(weights, first, count, column, found, residual, curvature, losses)


@numba.njit(**OPTIONS)
def _write(weights, first, count, column, found, residual, curvature, losses):
    """Writes the weighted terms of a column."""
    for r in range(count):
        s = first + r
        w = weights[s, column] if len(weights) else 1.0
        # The loss of an entry without weight may be infinite.
        losses[s] += w * found[0, r] if w > 0 else 0.0
        residual[s, column] = -w * found[1, r] if w > 0 else 0.0
        curvature[s, column] = w * max(found[2, r], 0.0) if w > 0 else 0.0
