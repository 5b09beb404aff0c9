"""Latents of tables of bits or counts under a link: in float32 where that has the digits."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.any_table import single_linked_table
from pyro_expfam.deq.cpu.lanes import CpuRows, Result
from pyro_expfam.deq.cpu.scalar_rules import in_dtype
from pyro_expfam.deq.cpu.searching import search_rows
from pyro_expfam.deq.cpu.solving import solve
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution, unwritten
from pyro_expfam.deq.step_rules import StepRules

MOST_IN_SINGLE = 30
"""The most evaluations of a row in float32, beyond which it searches along its steps in float64."""


def solve_linked_rows(
    problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution
) -> None:
    """Solves the rows of a problem, from latents ``start`` ``(N, l)``, into ``out``.

    In float64 rows search along their steps. In float32 they take steps whose end is certain, or
    probable, to be below the start, and leave before a last step that is certain to reach the
    tolerance. The objective is strictly convex, so that whatever has that certificate is the root.
    Rows that come to none go on by searches in float64: from where they are, and, since steps in
    float32 may have led to where no step is short enough, from their start.
    """
    if start.dtype != torch.float32:
        search_rows(problem, start, rules, out)
        return
    _solve_in_single(problem, start, rules, out)
    for place in (out.value, start):
        _search_again(problem, place, rules, out)


def _search_again(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves the rows that ``out`` lacks from latents ``start`` ``(N, l)``, in float64."""
    left = (~out.converged & (out.num_iter < rules.max_iter)).nonzero().squeeze(-1)
    if not len(left):
        return
    # Few rows are left. As rows of float64 they need no kernel beside the one of float64.
    again = unwritten(out.value[left].double())
    search_rows(problem.rows(left).double(), start[left].double(), rules, again)
    again.num_iter.add_(out.num_iter[left])
    for whole, part in zip(out[:4], again[:4], strict=True):
        whole[left] = part.to(whole.dtype)


def _solve_in_single(
    problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution
) -> None:
    """Solves the rows by certified steps in float32, as far as it has the digits."""
    table, first = single_linked_table(problem), np.ascontiguousarray(start.numpy())
    linear = np.zeros_like(first)
    of_prior = problem.prior.linear_part()
    if of_prior is not None:
        linear += of_prior.numpy()
    # The bound of changes that certifies roots is too large to shorten first steps by.
    rules = rules.for_variance(bounded=True)._replace(
        max_iter=min(rules.max_iter, MOST_IN_SINGLE),
        smallest_pivot=SMALLEST_PIVOT[torch.float32],
    )
    result = Result(*(field.numpy() for field in out[:4]))
    work = partial(solve, table, CpuRows(linear, first), in_dtype(rules, linear.dtype), result)
    in_threads(work, spans(len(start), problem.num_features, ENTRIES_TO_SOLVE))
