"""A warning of fits by quadrature whose rule is too coarse at the estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.evidence import evidence_at_root
from pyro_expfam.evidence.adaptive import MOST_NODES, Nodes
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.joint import LearntParametersProblem, Objective
from pyro_expfam.user_warning import warn_user

OF_TABLE, OF_ROW = 1.0, 1e-3
"""Errors of the evidence up to the larger of these, in nats of a table and of a row on average, are
too small to matter for a comparison of models."""


def more_nodes(nodes: int) -> int:
    """The number of nodes that a finer rule takes along each latent."""
    return min(2 * nodes + 1, MOST_NODES)


def warn_of_coarse_table(problem: Objective, coefficients: Tensor, z: Tensor) -> None:
    """Warns if a finer rule has another evidence where a fit of a table has ended.

    Args:
        problem: the objective of the fit, whose table has the family that was found.
        coefficients: as for :func:`~pyro_expfam.guides.runaway_warning.warn_of_runaway_table`.
        z: the latents at their root, ``(N, l)``.
    """
    if isinstance(problem, LearntParametersProblem):
        problem = replace(problem.known, table=problem.table)
    if not isinstance(problem, EvidenceProblem):
        return
    nodes = problem.nodes
    if not _can_be_finer(nodes):
        return
    finer = replace(problem, nodes=more_nodes(nodes))
    gap = finer.value(coefficients, z) - problem.value(coefficients, z)
    rows = problem.table.processes.sum((z.new_tensor(float(len(z)), dtype=torch.float64),))
    if problem.table.processes.number == 0:
        _warn(-gap, float(rows[0]), nodes)


@torch.no_grad()
def warn_of_coarse_roots(roots: list[BlockRoot], nodes: Nodes | None) -> None:
    """Warns if a finer rule has another evidence where a fit of a model has ended."""
    if not _can_be_finer(nodes):
        return
    gap, rows = 0.0, 0
    for problem, z in {id(x.problem): (x.problem, x.solution.value) for x in roots}.values():
        of_rule, of_finer = (
            evidence_at_root(problem, z, 1, k).sum(dtype=torch.float64)
            for k in (nodes, more_nodes(nodes))
        )
        gap, rows = gap + float(of_finer - of_rule), rows + z[..., 0].numel()
    _warn(gap, rows, nodes)


def _can_be_finer(nodes: Nodes | None) -> TypeGuard[int]:
    """Whether a rule is a grid with fewer nodes than the finest."""
    return isinstance(nodes, int) and nodes < MOST_NODES


def _warn(gap: float, rows: float, nodes: int) -> None:
    """Warns of the difference that a finer rule makes to the log evidence of a table."""
    if abs(gap) <= max(OF_TABLE, OF_ROW * rows):
        return
    finer = more_nodes(nodes)
    warn_user(
        f"{nodes} nodes are too coarse for the evidence where the fit has ended: {finer} nodes "
        f"put its logarithm {abs(gap):,.3g} nats {'above' if gap > 0 else 'below'} theirs, and the "
        f"fit has gone after the error too. Take loss=pyro_expfam.LaplaceEvidence(nodes={finer})",
        ConvergenceWarning,
    )
