"""Checks of the latents of rows, their posterior and their evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.estimates import parts_of_rows
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence import (
    ImportanceEvidence,
    evidence_with_error,
    khat_threshold,
    laplace_evidence,
    sample_evidence,
    second_order_mean,
    second_order_term,
)
from pyro_expfam.guides.group_root import GroupRoot

MORE_DRAWS = 10
"""Rows that seem to have a heavy tail are sampled again with this many times as many draws."""

LARGEST_PART = 0.25
"""Rows are sampled again if at most this part of them has a heavy tail; more is no accident."""

MOST_NODES = {1: 1 << 14, 2: 1 << 8}
"""The most nodes along each latent where the evidence is integrated, by the number of latents. With
more latents it is sampled.
"""

TOLERANCE = 1e-5
"""The error per row of the integrated evidence, in nats."""


class Rows(NamedTuple):
    """The checks of every row, at the point estimates of loading and intercept.

    Attributes:
        converged: whether the latents of the row are at the root of the score, ``(N,)``.
        residual: their distance from the root, in posterior standard deviations, ``(N,)``.
        num_entries: the number of entries that are not missing, ``(N,)``.
        khat: the Pareto shape of its importance weights, ``(N,)``.
        khat_threshold: the largest shape that is reliable for its draws, ``(N,)``.
        first_order: its log evidence by the Laplace approximation, ``(N,)``.
        second_order: its log evidence to second order, ``(N,)``; NaN if the family lacks third or
            fourth derivatives.
        importance: its log evidence by importance sampling, ``(N,)``.
        standard_error: the standard error of ``importance``, ``(N,)``.
        integral: its log evidence by quadrature for one or two latents of tables alone, and by
            importance sampling otherwise, ``(N,)``.
        integral_error: the change of the quadrature when its step was halved last, or the standard
            error of importance sampling, ``(N,)``.
        mean_shift: the distance of the posterior mean from the root to second order, in posterior
            standard deviations, ``(N,)``; NaN likewise.
    """

    converged: Tensor
    residual: Tensor
    num_entries: Tensor
    khat: Tensor
    khat_threshold: Tensor
    first_order: Tensor
    second_order: Tensor
    importance: Tensor
    standard_error: Tensor
    integral: Tensor
    integral_error: Tensor
    mean_shift: Tensor


@torch.no_grad()
def check_rows(root: GroupRoot, num_draws: int) -> Rows:
    """Checks the latents of rows, given everything that depends on them, in double precision.

    Each process checks its rows, and has the results of all rows.
    """
    each = root.problem.processes.gather(_check_own_rows(root, num_draws))
    like = root.problem.b
    return Rows(*(torch.cat([x.to(like.device) for x in xs]) for xs in zip(*each, strict=True)))


def _check_own_rows(root: GroupRoot, num_draws: int) -> Rows:
    problem, z = root.problem, root.solution.value
    problem, z = problem.double(), z.double()
    first = laplace_evidence(problem, z)
    sampled, threshold = _sampled(problem, z, num_draws)
    integral, integral_error = _integrated(problem, z, sampled)
    return Rows(
        converged=root.solution.converged,
        residual=root.solution.residual.double(),
        num_entries=_num_entries(problem),
        khat=sampled.khat,
        khat_threshold=threshold,
        first_order=first,
        second_order=first + _or_nan(second_order_term, problem, z, first),
        importance=sampled.log_evidence,
        standard_error=sampled.standard_error,
        integral=integral,
        integral_error=integral_error,
        mean_shift=_in_posterior_sd(problem, z, _or_nan(second_order_mean, problem, z, z) - z),
    )


def _or_nan(
    function: Callable[[LatentProblem, Tensor], Tensor],
    problem: LatentProblem,
    z: Tensor,
    like: Tensor,
) -> Tensor:
    """A function of rows, or NaN if the family lacks the derivatives that it takes."""
    try:
        return function(problem, z)
    except NotImplementedError:
        return torch.full_like(like, torch.nan)


def _sampled(
    problem: LatentProblem, z: Tensor, num_draws: int
) -> tuple[ImportanceEvidence, Tensor]:
    """Importance sampling, and the largest Pareto shape that is reliable for each row.

    Rows with a high shape are sampled again with more draws. The estimated shape is uncertain: of
    many rows, some seem to have a heavy tail by chance.
    """
    sampled = sample_evidence(problem, z, num_draws)
    threshold = torch.full_like(sampled.khat, khat_threshold(num_draws))
    high = ~(sampled.khat <= threshold)
    if bool(high.any()) and int(high.sum()) <= LARGEST_PART * len(high):
        again = sample_evidence(problem.rows(high), z[high], MORE_DRAWS * num_draws)
        for values, better in zip(sampled, again, strict=True):
            values[high] = better
        threshold[high] = khat_threshold(MORE_DRAWS * num_draws)
    return sampled, threshold


def _integrated(
    problem: LatentProblem, z: Tensor, sampled: ImportanceEvidence
) -> tuple[Tensor, Tensor]:
    """The most accurate evidence of every row, and its error."""
    if problem.latent_dim not in MOST_NODES or problem.term is not None:
        return sampled.log_evidence, sampled.standard_error
    return evidence_with_error(problem, z, tol=TOLERANCE, most_nodes=MOST_NODES[problem.latent_dim])


def _num_entries(problem: LatentProblem) -> Tensor:
    weights = problem.b.new_ones(()) if problem.weights is None else problem.weights
    return (weights > 0).expand(problem.y.shape).sum(-1)


def _in_posterior_sd(problem: LatentProblem, z: Tensor, shift: Tensor) -> Tensor:
    r"""The length :math:`\sqrt{x^\top H x}` of a shift of every row."""
    squares = []
    for tile in parts_of_rows(problem):
        information = problem.rows(tile).information(z[tile])
        squares.append(torch.einsum("si,sij,sj->s", shift[tile], information, shift[tile]))
    return torch.cat(squares).sqrt()
