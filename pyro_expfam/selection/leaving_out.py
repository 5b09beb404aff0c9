"""The log density of every row under the posterior of loading and intercept without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.evidence.pareto import smooth
from pyro_expfam.guides import LaplaceGuide

NUM_DRAWS = 500
"""Draws of the coefficients."""


class LeaveOneOut(NamedTuple):
    """The log densities of rows, each left out, and how far they can be trusted.

    Attributes:
        by_row: the log density of every row, ``(N,)``.
        khat: the Pareto shape of the weights of every row, ``(N,)``.
    """

    by_row: Tensor
    khat: Tensor


def posterior_of(
    guide: LaplaceGuide, table: tuple[Any, ...], processes: Processes = ONE
) -> CoefficientPosterior:
    """The posterior of loading and intercept of a fitted guide whose model is a block.

    Args:
        guide: the guide.
        table: ``y``, ``offset``, ``mask``, ``weights`` and ``covariates``.
        processes: the processes that hold the rows.
    """
    whole = LaplaceGuide(guide.model, params=guide, globals="laplace")
    whole.update_globals(*table, processes=processes.argument)
    return whole.coefficients


def leave_rows_out(
    posterior: CoefficientPosterior,
    problem: LatentProblem,
    evidence: Callable[[LatentProblem], Tensor],
) -> LeaveOneOut:
    """Leaves out rows by Pareto-smoothed importance sampling, with latents integrated out.

    Loading, intercept and learnt parameters of the family are drawn from their posterior, normal
    around the maximum of the evidence. The draws are the same at every call, and in every process.
    In tables of more than 3,000 coefficients learnt parameters
    stay as they are.

    Source: Vehtari, Gelman and Gabry (2017), *Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC*.

    Args:
        posterior: the posterior of loading and intercept.
        problem: the problem of the latents of the table.
        evidence: the log evidence of the rows of a problem.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NUM_DRAWS, posterior.noise_dim, generator=generator).to(posterior.mean)
    log_density = torch.stack([evidence(posterior.drawn(problem, x)) for x in noise], -1)
    return psis(log_density)


def psis(log_density: Tensor) -> LeaveOneOut:
    """Leave-one-out log densities from the log densities ``(N, S)`` of rows under ``S`` draws."""
    smoothed = smooth(-log_density)
    return LeaveOneOut(torch.logsumexp(smoothed.log_weights + log_density, -1), smoothed.khat)
