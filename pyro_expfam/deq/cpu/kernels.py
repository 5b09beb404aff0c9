"""Solving and gradients by the compiled kernels of a CPU."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

from pyro_expfam.deq.cpu import solving
from pyro_expfam.deq.cpu.gradients import sum_over_rows
from pyro_expfam.deq.cpu.linked_rows import solve_linked_rows
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import SUMMED, Gradients, solve_information
from pyro_expfam.deq.root_gradients import gradients as by_operations
from pyro_expfam.deq.solution import Solution, unwritten
from pyro_expfam.deq.step_rules import StepRules


def solve(problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
    """Latents of all rows, from latents ``start`` ``(N, l)``."""
    solution = unwritten(start)
    certified = problem.family.self_concordance is not None
    solve_rows = solving.solve_rows if certified else solve_linked_rows
    solve_rows(problem, start, rules, solution)
    return solution


def gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    """Gradients of loading, intercept, precision and prior means; None if others are needed."""
    if not needed <= SUMMED | {"loc"}:
        return None
    of_W, of_b, u, resolved = sum_over_rows(problem, z, grad)
    found = {"W": of_W, "b": of_b}
    if not bool(resolved.all()):
        failed = (~resolved).nonzero().squeeze(-1)
        rows = problem.rows(failed)
        curvature = rows.curvature(rows.predictor(z[failed]))
        u[failed] = solve_information(rows, curvature, grad[failed])
        others = by_operations(rows, z[failed], grad[failed], SUMMED)
        found = {name: x + others[name] for name, x in found.items()}
    return found | problem.prior.score_gradients(z, u, needed)
