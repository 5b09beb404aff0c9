"""Replicates: tables drawn from the fitted model and fitted as the observed one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.estimates import evidence_score, totals_of
from pyro_expfam.coefficients.maximum import coefficients_of, with_coefficients
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion

Score = Callable[[LatentProblem, Tensor], Tensor]
"""The gradient of an objective in coefficients ``(d, l + 1 + p)``, given a problem and its root."""

LONGEST_STEP = 1.0
"""The largest change of a natural parameter by refitting; it has no other bound in rare columns."""


def joint_score(problem: LatentProblem, z: Tensor) -> Tensor:
    """The gradient of the joint density, without priors."""
    return totals_of(problem, z).score


def score_of_evidence(order: int, nodes: int | None = None) -> Score:
    """The gradient of the evidence of an order, or by quadrature, without priors."""
    return lambda problem, z: evidence_score(problem, z, order, nodes)


class Posterior(NamedTuple):
    r"""The normal posterior of latents that observations of replicates are drawn from.

    Attributes:
        root: its mean, ``(N, l)``.
        whitening: matrices ``(N, l, l)`` with products :math:`K^\top K` that are its covariances.
    """

    root: Tensor
    whitening: Tensor

    def rows(self, index: Tensor) -> Posterior:
        """The posterior of some rows."""
        return Posterior(self.root[index], self.whitening[index])


def replicates(
    problem: LatentProblem,
    z: Tensor,
    count: int,
    score: Score | None,
    priors: Tensor,
    posterior: Posterior | None = None,
    known: int | None = None,
) -> Iterator[tuple[LatentProblem, Tensor]]:
    """Tables drawn from the fitted model, with their own latents and coefficients.

    Observations are drawn given latents, and the latents of each replicate are solved for. The
    coefficients were fitted to the observed table, so for each replicate they take a step of Fisher
    scoring towards it.

    The latents from which observations are drawn come from the Laplace posterior: over all rows
    such draws are spread as widely as the true latents. For coefficients that maximise the joint
    density the roots are used, since roots are then already about as spread as draws should be.

    Args:
        problem: the problem of the observed table, in double precision.
        z: its root, ``(N, l)``.
        count: the number of tables.
        score: the gradient of the objective that the coefficients maximise, without priors; None if
            they were not fitted to this table, so that they stay as they are.
        priors: prior precisions of the coefficients of a column, ``(l + 1 + p,)``.
        posterior: the posterior of the latents from which observations are drawn, where it is
            another one than the posterior given the table alone.
        known: the place of a coefficient of every column that is known, such as the loading of a
            row effect; None if all were fitted.
    """
    root, whitening = posterior or Posterior(z, Expansion(problem, z).whitening)
    at_optimum = z.new_zeros(()) if score is None else score(problem, z)
    for _ in range(count):
        noise = torch.randn_like(z).unsqueeze(-2)
        drawn = root if score is joint_score else root + (noise @ whitening).squeeze(-2)
        y = problem.family.sample(problem.predictor(drawn))
        table = replace(problem, y=y)
        latents = solve(table, make_solver()).value
        if score is not None:
            change = score(table, latents) - at_optimum
            table = _refitted(table, latents, change, priors, known)
            latents = solve(table, make_solver()).value
        yield table, latents


def _refitted(
    problem: LatentProblem, z: Tensor, change: Tensor, priors: Tensor, known: int | None
) -> LatentProblem:
    """The problem after a step of scoring, from the change of the score since an optimum.

    The priors' gradient cancels the score at the optimum, whatever the priors are.
    """
    curvature = totals_of(problem, z).curvature + torch.diag_embed(priors)
    if known is not None:
        curvature[:, known], curvature[:, :, known] = 0.0, 0.0
        change = change.index_fill(1, torch.tensor([known], device=change.device), 0.0)
    step = (torch.linalg.pinv(curvature, hermitian=True) @ change.unsqueeze(-1)).squeeze(-1)
    design = problem.design(z)
    length = (design @ step.mT).abs().amax(0).unsqueeze(-1)
    step = step * (LONGEST_STEP / length).clamp(max=1.0)
    return with_coefficients(problem, coefficients_of(problem) + step)
