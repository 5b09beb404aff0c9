"""Latents of tables of laws without a certificate of decrease, among them losses not convex."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq import line_search
from pyro_expfam.deq.cpu.lanes import CpuRows, Result
from pyro_expfam.deq.cpu.laplace_by_parts import parts_of
from pyro_expfam.deq.cpu.scalar_rules import in_dtype
from pyro_expfam.deq.cpu.searched_table import searched_table
from pyro_expfam.deq.cpu.searching import search
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients
from pyro_expfam.deq.search_rules import MOST_STEPS, SearchRules
from pyro_expfam.deq.solution import Solution, unsolved, unwritten
from pyro_expfam.deq.step_rules import StepRules


def solve(problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
    """Latents of all rows, from latents ``start`` ``(N, l)``.

    The kernel takes Newton steps. A row at latents where its objective is not convex leaves it, and
    is solved from its start by PyTorch operations, which have the expected information too.
    """
    out = unwritten(start)
    for rows, part in parts_of(problem):
        found = _search(part, start[rows].double(), rules)
        for whole, own in zip(out[:4], found[:4], strict=True):
            whole[rows] = own.to(whole.dtype)
    left = (~out.converged).nonzero().squeeze(-1)
    if len(left):
        again = unsolved(start[left])
        line_search.search_rows(problem.rows(left), start[left], rules, again)
        for whole, own in zip(out[:4], again[:4], strict=True):
            whole[left] = own
    return out


def gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    """None: there is no kernel for the gradients of these roots."""
    del problem, z, grad, needed
    return None


def _search(problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
    """Rows of a problem in float64, none of which has converged that has left the kernel."""
    found, first = unwritten(start), np.ascontiguousarray(start.numpy())
    linear = np.zeros(first.shape)
    of_prior = problem.prior.linear_part()
    if of_prior is not None:
        linear += of_prior.numpy()
    searched = SearchRules.of(rules.tolerance, min(rules.max_iter, MOST_STEPS))
    result = Result(*(field.numpy() for field in found[:4]))
    work = partial(
        search,
        searched_table(problem),
        CpuRows(linear, first),
        in_dtype(searched, linear.dtype),
        SMALLEST_PIVOT[torch.float64],
        result,
    )
    in_threads(work, spans(len(start), problem.num_features, ENTRIES_TO_SOLVE))
    return found
