"""Rows whose losses are quadratic and share one information: one factorisation solves them all."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.backend import residual_products_of
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.deq.solution import Solution, with_uniqueness


def solve_quadratic(problem: LatentProblem) -> Solution | None:
    r"""Latents of all rows of a Gaussian table, or None where rows have information of their own.

    Losses whose third derivatives are zero have second derivatives :math:`v_i` that are the same at
    all linear predictors. With the scores :math:`g_{si}` of the entries at the latents zero, and
    the precision matrix ``P`` and the mean ``m`` of the prior, the root is

    .. math:: z_s = H^{-1} (W^\top g_s + P m_s), \qquad H = W^\top \operatorname{diag}(v) W + P.

    Weights by entry, missing entries and scales by row make :math:`H` differ by row.

    Args:
        problem: a problem under a dense map, without batch dimensions.

    Returns:
        The solution; None also where the dtype does not resolve the information, and where a number
        is not finite.
    """
    if not _shares_information(problem):
        return None
    first = problem.rows(slice(0, 1))
    curvatures = first.informations(first.b[None])
    inverse = _inverse_information(problem, curvatures)
    if inverse is None:
        return None
    # The product of so few columns is in double precision at little cost.
    value = (_scores_at_zero(problem, curvatures).double() @ inverse).to(problem.b.dtype)
    if not bool(value.isfinite().all()):
        return None
    no_score = value.new_zeros(len(value))
    solution = Solution(
        value,
        torch.ones_like(no_score, dtype=torch.bool),
        torch.ones_like(no_score, dtype=torch.int64),
        no_score,
    )
    return with_uniqueness(solution, True)


def _shares_information(problem: LatentProblem) -> bool:
    """Whether losses are quadratic, with the same second derivatives in all rows."""
    by_row = (problem.weights, *problem.family.parameters.values())
    return (
        problem.family.self_concordance == 0
        and problem.num_rows > 0
        and not problem.batch_shape
        and problem.term is None
        and all(x is None or x.dim() < 2 or x.shape[-2] == 1 for x in by_row)
    )


def _inverse_information(problem: LatentProblem, curvatures: Tensor) -> Tensor | None:
    """The inverse of the information ``(l, l)`` in float64; None if it is not resolved.

    Args:
        problem: the problem.
        curvatures: the second derivatives of the losses of a row, ``(1, d)``.
    """
    of_table, of_prior = problem.map.double().gram(curvatures.double()), problem.prior.information()
    information = (of_table + of_prior.double()).squeeze(0)
    factor, failed = torch.linalg.cholesky_ex(information)
    pivots, least = factor.diagonal().square(), SMALLEST_PIVOT[problem.b.dtype]
    # A comparison with NaN is False.
    if bool(failed) or not bool((pivots >= least * information.diagonal()).all()):
        return None
    return torch.cholesky_inverse(factor)


def _scores_at_zero(problem: LatentProblem, curvatures: Tensor) -> Tensor:
    """The scores of the latents zero, ``(N, l)``.

    Residuals are summed, rather than means subtracted from sums: means far from zero would round
    these.
    """
    kernel, of_prior = residual_products_of(problem), problem.prior.linear_part()
    if kernel is None:
        scores = problem.b.new_empty(problem.num_rows, problem.latent_dim)
        for tile in row_tiles(problem):
            rows = problem.rows(tile)
            eta = rows.b if rows.offset is None else rows.b + rows.offset
            scores[tile] = rows.map.transpose(rows.scores(eta.expand(rows.y.shape)))
    else:
        # Statistics are multiples of real numbers, and second derivatives are the weights.
        units = problem.family.entries(torch.ones_like(problem.y[:1])).statistic
        assert units is not None
        scores = kernel.residual_products(problem, units, curvatures)
    return scores if of_prior is None else scores + of_prior
