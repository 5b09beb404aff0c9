r"""The score of each row: the gradient of its log evidence in the coefficients.

Rows are independent given the coefficients, so the spread of their scores estimates how far the
maximum of the evidence would move if the table were drawn again, whatever law the rows follow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_expfam.coefficients.information import (
    expansions,
    losses_by_column,
    predictors_of_feature,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion


def row_scores(expansion: Expansion) -> Tensor:
    r"""The gradient of the log evidence of each row in the coefficients, ``(n, d, l + 1)``.

    With the residual :math:`r_i`, the vector :math:`u = -\tfrac12 C t` of
    :attr:`~pyro_expfam.evidence.expansion.Expansion.skew` and :math:`x = (z, 1)`, the gradient in
    the coefficients of a column with one linear predictor is

    .. math::
        \bigl( r_i - \tfrac12 A'''_i s_i - v_i\, w_i^\top u \bigr)\, x
        + \bigl( r_i u - v_i C w_i,\; 0 \bigr).

    The terms with :math:`u` come from the root of the row, which changes with the coefficients.
    The levels of a category share their second and third derivatives.

    Args:
        expansion: the log posterior of the latents around their root.
    """
    problem = expansion.problem
    residual = problem.scores(expansion.eta)
    follow = -0.5 * (expansion.covariance @ expansion.skew.unsqueeze(-1)).squeeze(-1)
    losses = losses_by_column(expansion)
    to_eta = residual - 0.5 * expansion.log_det_slope - losses.times(problem.map(follow))
    design = problem.design(expansion.z)
    of_loading = residual[..., None] * follow[:, None]
    of_loading = of_loading - losses.times_rows(problem.map.times(expansion.covariance))
    of_known = problem.num_coefficients - problem.latent_dim
    return to_eta[..., None] * design[:, None] + pad(of_loading, (0, of_known))


def score_products(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The sum :math:`\sum_s g_s g_s^\top` over the scores of rows, in float64.

    Args:
        problem: the problem of the latents, without batch dimensions.
        z: the root of the problem, ``(N, l)``.

    Returns:
        The sum for all coefficients one after the other, ``(d (l + 1), d (l + 1))``.
    """
    size = problem.num_features * problem.num_coefficients
    total = torch.zeros(size, size, dtype=torch.float64, device=z.device)
    for part in expansions(problem, z):
        scores = row_scores(part).flatten(1)
        total += scores.mT @ scores
    return problem.sum(total)[0]


def score_products_by_feature(problem: LatentProblem, z: Tensor) -> Tensor:
    """The diagonal blocks of :func:`score_products` per feature.

    Their shape is ``(features, K (l + 1), K (l + 1))``, with ``K`` linear predictors per feature.
    """
    levels = predictors_of_feature(problem)
    num_features, size = problem.num_features // levels, levels * problem.num_coefficients
    total = torch.zeros(num_features, size, size, dtype=torch.float64, device=z.device)
    for part in expansions(problem, z):
        scores = row_scores(part).reshape(-1, num_features, size).movedim(0, -1)
        total += scores @ scores.mT
    return problem.sum(total)[0]
