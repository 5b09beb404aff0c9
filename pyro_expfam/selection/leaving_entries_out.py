"""The log density of every entry under a fit without it, from one fit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients import CoefficientCovariance
from pyro_expfam.coefficients.scores import row_scores
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import laplace_evidence, second_order_term
from pyro_expfam.evidence.expansion import Expansion

LARGEST = 0.9
"""The most of what is known of the coefficients along an entry that the entry may have said."""

UNRELIABLE = 0.5
"""Entries that have said more than this part are unreliable."""


class EntriesLeftOut(NamedTuple):
    """The log densities of entries, each left out.

    Attributes:
        by_entry: the log density of every entry given all others, ``(N, d)``; 0 where an entry is
            missing.
        unreliable: how many entries determine coefficients of their column for the most part.
    """

    by_entry: Tensor
    unreliable: int


def has_closed_form(problem: LatentProblem) -> bool:
    """Whether every entry has one linear predictor, so that it can be left out by itself."""
    return not problem.family.is_coupled and problem.levels == 1 and problem.term is None


def leave_entries_out(
    problem: LatentProblem, z: Tensor, covariance: CoefficientCovariance, solver: Solver
) -> EntriesLeftOut:
    r"""Leaves out each entry without a fit.

    The log density of an entry given the rest of its row is the difference of two evidences, of the
    row with and without the entry, to second order. The latents are solved for in both. The fit has
    seen the entry too: without it the coefficients would be :math:`\hat\theta - S g / (1 - a)` to
    first order, with their covariance :math:`S`, the gradient :math:`g` of this log density, and
    the part :math:`a` of what is known of the entry's own coefficients that the entry has said. The
    log density is lower there by :math:`g^\top S g / (1 - a)`. Parameters of the family stay as
    they are.

    Args:
        problem: the problem of the latents of a table at its fit.
        z: the root, ``(N, l)``.
        covariance: the covariance of the coefficients of the fit.
        solver: the solver of the latents.

    Source: Koh and Liang, *Understanding black-box predictions via influence functions* (2017);
    Rad and Maleki, *A scalable estimate of the out-of-sample prediction error via approximate
    leave-one-out cross-validation* (2020), for the factor of :math:`a`.
    """
    of_column = covariance.by_predictor()
    found, unreliable = torch.zeros_like(problem.y), 0
    size = problem.num_features
    for tile in tiles(problem.num_rows, size * size * (problem.latent_dim + 1), z.device):
        rows, at = problem.rows(tile), z[tile]
        # The loading of a row effect is known.
        kept = _fitted(rows, of_column.shape[-1])
        design = rows.design(at)[:, kept]
        spread = torch.einsum("na,dab,nb->nd", design, of_column, design)
        said = rows.curvatures(rows.predictor(at)) * spread
        unreliable += int((said > UNRELIABLE).sum())
        evidence, score = _evidence_and_scores(rows, at)
        without, of_others = _evidence_and_scores(*_without_one_entry(rows, solver))
        density = evidence[:, None] - without.view(-1, size)
        gradient = (score[:, None] - of_others.unflatten(0, (-1, size)))[..., kept]
        density = density - covariance.forms(gradient) / (1 - said.clamp(max=LARGEST))
        found[tile] = density if rows.weights is None else density.where(rows.weights > 0, 0.0)
    return EntriesLeftOut(found, sum(problem.processes.gather(unreliable)))


def _fitted(problem: LatentProblem, count: int) -> Tensor:
    """Which coefficients of a linear predictor are fitted, given how many are, booleans."""
    fitted = torch.ones(problem.num_coefficients, dtype=torch.bool, device=problem.b.device)
    fitted[problem.latent_dim - 1] = count == problem.num_coefficients
    return fitted


def _evidence_and_scores(problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor]:
    """The log evidence of rows ``(n,)``, and its gradients ``(n, d, l + 1 + p)``."""
    evidence = laplace_evidence(problem, z)
    # A law without third and fourth derivatives has the first order alone.
    with suppress(NotImplementedError):
        evidence = evidence + second_order_term(problem, z)
    return evidence, row_scores(Expansion(problem, z))


def _without_one_entry(problem: LatentProblem, solver: Solver) -> tuple[LatentProblem, Tensor]:
    """Every row as often as it has entries, each time without one of them, with the root."""
    num_rows, size = problem.num_rows, problem.num_features
    every = torch.arange(num_rows, device=problem.b.device).repeat_interleave(size)
    repeated = problem.rows(every)
    others = (1 - torch.eye(size).to(problem.b)).repeat(num_rows, 1)
    without = replace(repeated, weights=repeated.weighted(others), stored=None)
    return without, solve(without, solver).value
