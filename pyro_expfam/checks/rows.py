"""How far the latents of rows, and what is said of them, can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.evidence import (
    ImportanceEvidence,
    integrate_evidence,
    khat_threshold,
    laplace_evidence,
    sample_evidence,
    second_order_mean,
    second_order_term,
)
from pyro_expfam.guides import BlockRoot

MORE_DRAWS = 10
"""How many times the draws are taken again of rows that seem to have a heavy tail."""

LARGEST_PART = 0.25
"""Up to this part of the rows; more of them are no accident."""


NUM_NODES = {1: (41, 61), 2: (13, 19)}
"""Nodes along each latent by number of latents, of a coarse grid and a fine one."""


class Rows(NamedTuple):
    """What there is to say of every row, at the point estimates of loading and intercept.

    Attributes:
        converged: whether its latents are at the root of the score, ``(N,)``.
        residual: how far they are from it, in posterior standard deviations, ``(N,)``.
        num_entries: its entries that are not missing, ``(N,)``.
        khat: the Pareto shape of its importance weights, ``(N,)``.
        khat_threshold: the largest shape that is reliable for its draws, ``(N,)``.
        first_order: its log evidence by the Laplace approximation, ``(N,)``.
        second_order: its log evidence to second order, ``(N,)``.
        importance: its log evidence by importance sampling, ``(N,)``.
        standard_error: the standard error of ``importance``, ``(N,)``.
        integral: its log evidence by quadrature where a row has one or two latents, and by
            importance sampling otherwise, ``(N,)``.
        integral_error: the change of the quadrature from a coarser grid, or the standard error,
            ``(N,)``.
        mean_shift: how far the posterior mean is from the root, to second order and in posterior
            standard deviations, ``(N,)``.
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
def check_rows(root: BlockRoot, num_draws: int) -> Rows:
    """Checks the rows of a block, in double precision."""
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
        second_order=first + second_order_term(problem, z),
        importance=sampled.log_evidence,
        standard_error=sampled.standard_error,
        integral=integral,
        integral_error=integral_error,
        mean_shift=_in_posterior_sd(problem, z, second_order_mean(problem, z) - z),
    )


def _sampled(
    problem: LatentProblem, z: Tensor, num_draws: int
) -> tuple[ImportanceEvidence, Tensor]:
    """Importance sampling, and the largest Pareto shape that is reliable for each row.

    Rows that stand out are sampled again. The shape is uncertain itself: of many rows some seem
    to have a heavy tail by chance.
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
    """The most exact evidence of every row, and its error."""
    if problem.latent_dim not in NUM_NODES:
        return sampled.log_evidence, sampled.standard_error
    coarse, fine = (integrate_evidence(problem, z, n) for n in NUM_NODES[problem.latent_dim])
    return fine, (fine - coarse).abs()


def _num_entries(problem: LatentProblem) -> Tensor:
    weights = problem.W.new_ones(()) if problem.weights is None else problem.weights
    return (weights > 0).expand(problem.statistic.shape).sum(-1)


def _in_posterior_sd(problem: LatentProblem, z: Tensor, shift: Tensor) -> Tensor:
    r"""The length :math:`\sqrt{x^\top H x}` of a shift of every row."""
    squares = []
    for tile in row_tiles(problem):
        information = problem.rows(tile).information(z[tile])
        squares.append(torch.einsum("si,sij,sj->s", shift[tile], information, shift[tile]))
    return torch.cat(squares).sqrt()
