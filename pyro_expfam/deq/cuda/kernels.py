"""Solving and gradients by the fused kernels of a CUDA device."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cuda import gradients as fused
from pyro_expfam.deq.cuda.searching import search_rows
from pyro_expfam.deq.cuda.solving import solve_rows
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import (
    SUMMED,
    Gradients,
    is_of_law,
    of_law,
    solve_information,
)
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.step_rules import StepRules


def solve(problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
    """Latents of all rows, from latents ``start`` ``(N, l)``."""
    if problem.family.self_concordance is None:
        # Without a certificate of decrease rows search along their steps.
        solution = unsolved(start)
        search_rows(problem, start, rules, solution)
        return solution
    loc = problem.loc
    if loc is not None:
        # The kernels want a prior about zero. The prior means become a part of the offset.
        of_loc = problem.map(loc)
        offset = of_loc if problem.offset is None else problem.offset + of_loc
        solution = solve(replace(problem, offset=offset, loc=None), start - loc, rules)
        return solution._replace(value=solution.value + loc)
    solution = unsolved(start)
    solve_rows(problem, start, rules, solution)
    return solution


def gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    """Gradients of fields, of which only those that are needed are written; None if they cannot."""
    if problem.family.predictors_per_column > 1 and not needed <= SUMMED:
        return None
    of_statistic = _through_statistic(problem)
    if problem.loc is not None or not needed <= SUMMED | {"offset", "weights"} | of_statistic:
        return None
    u, resolved = fused.solve_information(problem, z, grad, SMALLEST_PIVOT[z.dtype])
    failed = (~resolved).nonzero().squeeze(-1)
    if len(failed):
        rows = problem.rows(failed)
        curvature = rows.curvature(rows.predictor(z[failed]))
        u[failed] = solve_information(rows, curvature, grad[failed])
    shape = (1, 1) if problem.offset is None else torch.atleast_2d(problem.offset).shape
    wants_statistic = not needed.isdisjoint(of_statistic)
    by_entry = fused.EntryGradients(
        torch.empty_like(problem.y) if wants_statistic else None,
        torch.empty_like(problem.y) if "offset" in needed and min(shape) > 1 else None,
        torch.empty_like(problem.y) if "weights" in needed else None,
    )
    of_W, of_b = fused.sum_over_rows(problem, z, u, by_entry)
    found = {"W": of_W, "b": of_b, **problem.prior.score_gradients(z, u, needed)}
    if by_entry.offset is not None:
        found["offset"] = by_entry.offset
    elif "offset" in needed:
        by_row = shape[0] > 1
        found["offset"] = fused.sum_over_features(problem, z, u) if by_row else of_b[None]
    if by_entry.weights is not None:
        found["weights"] = by_entry.weights
    if by_entry.statistic is not None:
        # The gradient of the statistic has its weights already.
        plain = replace(problem, weights=None)
        found |= of_law(plain, needed, lambda law: law.statistic, by_entry.statistic)
    return found


def _through_statistic(problem: LatentProblem) -> frozenset[str]:
    """The fields that are in the sufficient statistic alone."""
    if problem.entries.statistic is None:
        return frozenset()
    activation = activation_of(problem.family)
    if activation is None or isinstance(activation.size, Tensor):
        return frozenset({"y"})
    return frozenset(filter(is_of_law, problem.fields))
