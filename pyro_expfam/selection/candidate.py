"""A family with a number of latents: its fit to a table, and its scores."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.checks.discrepancies import are_bits, counts_zeros, coverage, predictions
from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.processes import Processes, ProcessesError
from pyro_expfam.evidence import second_order_evidence
from pyro_expfam.evidence.adaptive import Nodes, adaptive_evidence
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.joint.account import refuse_interrupted
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.selection.accurate_evidence import accurate_evidence
from pyro_expfam.selection.folds import folds
from pyro_expfam.selection.held_out_parts import HoldOut, entry_folds, rows_among
from pyro_expfam.selection.leaving_entries_out import has_closed_form, leave_entries_out
from pyro_expfam.selection.leaving_out import LeaveOneOut, leave_rows_out, posterior_of

FEW_COLUMNS = 12
"""Rows of at most so many columns are integrated by quadrature, as far as latents are few."""

NODES = {1: 15, 2: 9, 3: 7}
"""Nodes along each latent, by the number of latents."""

NUM_PREDICTIONS = 19
"""Tables from the fitted model whose zeros are counted."""

ERRORS = (ValueError, RuntimeError, ArithmeticError, TypeError)
"""What ends one candidate, and not the comparison."""


def ending_one_candidate(error: Exception) -> Exception:
    """An error that ends one candidate; one after which processes are not in step is raised."""
    if isinstance(error, ProcessesError) and not error.are_in_step:
        raise error
    return error


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model of the table that has not been fitted yet.

    Attributes:
        family: its name in the comparison.
        latent_dim: its number of latents.
        model: the block.
    """

    family: str
    latent_dim: int
    model: ExpFamPCA

    @property
    def loss(self) -> LaplaceEvidence:
        """The evidence that the model is fitted to: by quadrature where rows are short."""
        if self.model.num_features <= FEW_COLUMNS and self.model.latent_dim in NODES:
            return LaplaceEvidence(nodes=NODES[self.model.latent_dim])
        return LaplaceEvidence()


class Scores(NamedTuple):
    """What a fit of a candidate has shown.

    Attributes:
        guide: the fitted guide.
        converged: whether the fit to the whole table has converged.
        evidence: the log evidence of every row at the fit, ``(N,)``.
        held_out: the log evidence of every row under a fit without its fold, ``(N,)``.
        loo: the log density of every row without it, None where it cannot be had.
        no_loo: why it cannot be had, in words.
        coverage: the share of entries inside their 90% predictive intervals.
        zeros: the share of zeros in tables from the fitted model.
        num_parameters: free numbers of loading, intercept and family.
        seconds: the time that all of this took.
    """

    guide: LaplaceGuide
    converged: bool
    evidence: Tensor
    held_out: Tensor
    loo: LeaveOneOut | None
    no_loo: str
    coverage: float
    zeros: float
    num_parameters: int
    seconds: float


def score(
    candidate: Candidate,
    table: tuple[Any, ...],
    hold_out: HoldOut,
    num_folds: int,
    processes: Processes,
    report: Callable[[], object],
) -> Scores:
    """Fits a candidate to the table and without each fold, and scores it.

    Args:
        candidate: the model.
        table: ``y``, ``offset``, ``mask``, ``weights`` and ``covariates`` of this process.
        hold_out: ``"rows"`` or ``"entries"``.
        num_folds: parts of the rows, each held out once.
        processes: the processes that hold the rows.
        report: called after the fit of the table, and after the fit without each fold.
    """
    begin = time.perf_counter()
    loss = candidate.loss
    rows_evidence = _evidence_by(loss)
    guide = LaplaceGuide(candidate.model)
    with torch.enable_grad():
        fit = guide.fit(*table, loss=loss, progress=False, processes=processes.argument)
    refuse_interrupted(fit)
    report()
    problem = replace(problem_of(guide, table), processes=processes)
    z = solve(problem, make_solver()).value
    posterior, no_loo = _posterior(guide, table, processes)
    if hold_out == "entries" and has_closed_form(problem) and posterior is not None:
        held_out = leave_entries_out(problem, z, posterior, make_solver()).by_entry.sum(-1)
    else:
        held_out = _without_folds(guide, table, problem, loss, hold_out, num_folds, report)
    loo = None if posterior is None else _loo(posterior, problem, loss)
    present = torch.ones_like(problem.y, dtype=torch.bool)
    if problem.weights is not None:
        present = (problem.weights > 0).expand_as(present)
    return Scores(
        guide=guide,
        converged=fit.converged,
        evidence=_of_all(processes, rows_evidence(problem)),
        held_out=_of_all(processes, held_out),
        loo=None if loo is None else LeaveOneOut(*(_of_all(processes, x) for x in loo)),
        no_loo=no_loo,
        coverage=_coverage(problem, z, present),
        zeros=_zeros(problem, z, present),
        num_parameters=num_parameters(candidate.model),
        seconds=processes.of_first(lambda: time.perf_counter() - begin),
    )


def _of_all(processes: Processes, own: Tensor) -> Tensor:
    """A number per row of all processes, in each of them."""
    return torch.cat([x.to(own.device) for x in processes.gather(own.cpu())])


def _without_folds(
    guide: LaplaceGuide,
    table: tuple[Any, ...],
    problem: LatentProblem,
    loss: LaplaceEvidence,
    hold_out: HoldOut,
    num_folds: int,
    report: Callable[[], object],
) -> Tensor:
    """The log evidence of what is held out of every row, under fits without each fold."""
    rows_evidence, num_rows, processes = _evidence_by(loss), problem.num_rows, problem.processes
    held_out = problem.y.new_zeros(num_rows)
    # The fits without a fold start from the whole fit, so that all are near the same optimum.
    part: LaplaceGuide = copy.deepcopy(guide)

    def fit(rows: tuple[Any, ...]) -> None:
        with torch.enable_grad():
            found = part.fit(*rows, loss=loss, progress=False, processes=processes.argument)
        refuse_interrupted(found)
        report()

    if hold_out == "rows":
        count, first = problem.count_rows()
        for both in folds(count, num_folds, problem.y.device):
            train, test = (rows_among(rows, first, num_rows) for rows in both)
            fit(rows_of(table, train, num_rows))
            if len(test):
                held_out[test] = rows_evidence(problem_of(part, rows_of(table, test, num_rows)))
        return held_out
    for held in entry_folds(problem, num_folds):
        given = _masked(table, problem, held)
        fit(given)
        held_out += rows_evidence(problem_of(part, table)) - rows_evidence(problem_of(part, given))
    return held_out


def _masked(table: tuple[Any, ...], problem: LatentProblem, held: Tensor) -> tuple[Any, ...]:
    """The table without some entries, booleans ``(N, columns)``."""
    y, offset, _, weights, covariates = table
    there = ~held
    if problem.weights is not None:
        there = there & (problem.of_columns(problem.weights) > 0)
    return y, offset, there, weights, covariates


def num_parameters(model: ExpFamPCA) -> int:
    """Free numbers of a block: loading without rotations, all other coefficients, the family's."""
    size = model.latent_dim
    predictors = sum(
        kind.width * max(1, kind.family.predictors_per_column - 1)
        for kind in model.family.kinds(model.num_features)
    )
    loading = predictors * size - size * (size - 1) // 2
    if model.linear_map is not None:
        loading = math.prod(model.loading_shape)
    learnt = sum(x.numel() for x in model._learnt_parameters().values())
    learnt += model.learns_row_effect
    return loading + predictors * (1 + model.num_covariates) + learnt


def problem_of(guide: LaplaceGuide, table: tuple[Any, ...]) -> LatentProblem:
    """The problem of the latents of a table under a fitted guide, in double precision."""
    (root,) = guide.roots(*table)
    return root.problem.distinct().double()


def rows_of(table: tuple[Any, ...], index: Tensor, num_rows: int) -> tuple[Any, ...]:
    """Some rows of a table with its offset, mask, weights and covariates."""
    return tuple(_rows(entries, index, num_rows) for entries in table)


def _rows(entries: Any, index: Tensor, num_rows: int) -> Any:
    if hasattr(entries, "iloc"):
        return entries.iloc[index.cpu().numpy()]
    if entries is None or isinstance(entries, int | float):
        return entries
    array = entries if isinstance(entries, Tensor) else np.asarray(entries)
    if array.ndim < 2 or array.shape[-2] != num_rows:
        return array
    return array[index if isinstance(array, Tensor) else index.cpu().numpy()]


def _evidence_by(loss: LaplaceEvidence) -> Callable[[LatentProblem], Tensor]:
    if loss.nodes is None:
        return lambda problem: accurate_evidence(problem, make_solver())
    return partial(_by_quadrature, loss.nodes)


def _by_quadrature(nodes: Nodes, problem: LatentProblem) -> Tensor:
    return adaptive_evidence(problem, solve(problem, make_solver()).value, nodes)


def _posterior(
    guide: LaplaceGuide, table: tuple[Any, ...], processes: Processes
) -> tuple[CoefficientPosterior | None, str]:
    """The posterior of loading and intercept, or None and why there is none."""
    try:
        return posterior_of(guide, table, processes), ""
    except ERRORS as error:
        return None, str(ending_one_candidate(error))


def _loo(
    posterior: CoefficientPosterior, problem: LatentProblem, loss: LaplaceEvidence
) -> LeaveOneOut:
    evidence = second_order_evidence if loss.nodes is None else _evidence_by(loss)
    return leave_rows_out(posterior, problem, evidence)


def _coverage(problem: LatentProblem, z: Tensor, present: Tensor) -> float:
    """The share of entries in their intervals; NaN for bits, and for laws without draws."""
    if are_bits(problem.family):
        return math.nan
    try:
        return _share(problem, coverage(problem, z, present) * present.sum(), present)
    except NotImplementedError:
        return math.nan


def _zeros(problem: LatentProblem, z: Tensor, present: Tensor) -> float:
    """The share of zeros in tables from the fitted model, with latents from their posterior.

    It is NaN where zero is no count, and for laws without draws.
    """
    if not counts_zeros(problem.family):
        return math.nan
    try:
        whitening = Expansion(problem, z).whitening
        tables = list(predictions(problem, z, NUM_PREDICTIONS, whitening))
    except NotImplementedError:
        return math.nan
    zeros = torch.stack([((y == 0) & present).sum() for y in tables])
    return _share(problem, zeros.double().mean(), present)


def _share(problem: LatentProblem, count: Tensor, present: Tensor) -> float:
    """A number of entries of this process as a share of all entries of all processes."""
    total, entries = problem.processes.sum((count.double(), present.sum().double()))
    return float(total / entries)
