r"""The information of a table on loading and intercept, with latents eliminated or integrated out.

The coefficients of a linear predictor are its loading and its intercept,
:math:`\theta_i = (w_i, b_i)`. A column of a table, here a feature, has ``K`` linear predictors:
one, or one per level of a category. The coefficients of all predictors, one after the other, are
``d (l + 1)`` numbers. Their Hessian is a sum of two parts. The first has one block per feature,
since entries are independent given the latents. The second is a sum of products of factors per row,
no wider than the latents and their covariance.

A table with categories beside other columns counts as one feature with ``K = d``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_expfam.coefficients.one_column import OneColumn
from pyro_expfam.coefficients.row_hessian import RowHessian, predictors_first
from pyro_expfam.deq.curvature import OfOneFamily, SideBySide
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.evidence.expansion import Expansion


def profile_information(problem: LatentProblem, prior_precision: Tensor, z: Tensor) -> Tensor:
    r"""The Hessian of the joint objective with the latents at their root.

    The Hessian of minus the log density of observations, latents and coefficients is block-arrow,
    since rows share nothing but the coefficients. The result is the Schur complement of the
    latents in it, :math:`H_{gg} - \sum_s H_{gs} H_{ss}^{-1} H_{sg}`. It is positive semidefinite
    where the coefficients maximise that density. At the maximum of the evidence it need not be.

    Args:
        problem: the problem of the latents, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``; 0 for a
            flat prior.
        z: the root of the problem, ``(N, l)``.

    Returns:
        The information, ``(d (l + 1), d (l + 1))``, in float64.
    """
    return _total(_profile_hessian, problem, prior_precision, z)


def evidence_information(problem: LatentProblem, prior_precision: Tensor, z: Tensor) -> Tensor:
    r"""The Hessian of minus the log evidence and the log prior of the coefficients.

    It is :func:`profile_information` plus the Hessian of the determinant,
    :math:`\tfrac12 \sum_s \log \det H_s`, with the root following the coefficients. Arguments and
    result are as in :func:`profile_information`.
    """
    return _total(evidence_hessian, problem, prior_precision, z)


def information_by_feature(problem: LatentProblem, prior_precision: Tensor, z: Tensor) -> Tensor:
    """The diagonal blocks of :func:`evidence_information` per feature.

    Their shape is ``(features, K (l + 1), K (l + 1))``.
    """
    prior = prior_blocks(problem, prior_precision)
    total = torch.zeros_like(prior)
    for part in expansions(problem, z):
        total += evidence_hessian(part).by_feature()
    return prior + problem.sum(total)[0]


def complete_information(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The information of each linear predictor if latents are normal around their root.

    It is :math:`\sum_s v_{si} \mathrm E[x_s x_s^\top]` with the latents, a one and the covariates
    of a row as :math:`x_s`, which is
    positive semidefinite. The information of a prior is not included, and neither is what the
    levels of a category share.

    Args:
        problem: the problem of the latents, without batch dimensions.
        z: the root of the problem, ``(N, l)``.

    Returns:
        The information, ``(d, l + 1, l + 1)``.
    """
    num_features, size = problem.num_features, problem.num_coefficients
    total = problem.b.new_zeros(num_features, size, size)
    for tile in tiles(problem.num_rows, max(num_features, size**2), z.device):
        part = Expansion(problem.rows(tile).double(), z[tile].double())
        # Both are weighted sums over rows of a matrix of the row.
        of_design = _wide_covariance(part.problem, part.definite_covariance)
        moments = _products(part.problem.design(part.z)) + of_design.flatten(1)
        total += (part.curvature.mT @ moments).view_as(total)
    return problem.sum(total)[0]


def second_moment(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The sum over rows of :math:`\mathrm E[z z^\top]` if latents are normal around their root.

    Args:
        problem: the problem of the latents, without batch dimensions.
        z: the root of the problem, ``(N, l)``.

    Returns:
        The second moment, ``(l, l)``, in float64.
    """
    size = z.shape[1]
    total = z.new_zeros(size, size, dtype=torch.float64)
    for tile in tiles(problem.num_rows, max(problem.num_features, size**2), z.device):
        part = Expansion(problem.rows(tile).double(), z[tile].double())
        total += part.z.mT @ part.z + part.definite_covariance.sum(0)
    return problem.sum(total)[0]


def complete_information_gradient(problem: LatentProblem, blocks: Tensor, z: Tensor) -> Tensor:
    r"""The gradient of :math:`\operatorname{tr}(C_i I_i)` per feature, as if latents were known.

    With latents known to be at the root, :math:`I_i = \sum_s V_{si} \otimes x_s x_s^\top` with the
    second derivatives :math:`V_{si}` of an entry. For one predictor per feature the gradient is
    :math:`\sum_s A'''_{si} (x_s^\top C_i x_s)\, x_s`.

    Args:
        problem: the problem of the latents, without batch dimensions.
        blocks: :math:`C_i`, symmetric, ``(features, K (l + 1), K (l + 1))``.
        z: the root, ``(N, l)``.

    Returns:
        The gradient, ``(d, l + 1)``.
    """
    size = problem.num_coefficients
    by_pair = blocks.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
    total = blocks.new_zeros(problem.num_features, size)
    for tile in tiles(problem.num_rows, max(len(total), blocks[0].numel()), z.device):
        part = Expansion(problem.rows(tile).double(), z[tile].double())
        design = part.problem.design(part.z)
        spread = _products(design) @ by_pair.flatten(3).flatten(0, 2).mT
        slope = losses_by_column(part).third_of_blocks(spread.unflatten(1, by_pair.shape[:3]))
        total += slope.mT @ design
    return problem.sum(total)[0]


def _total(
    hessian: Callable[[Expansion], RowHessian],
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
) -> Tensor:
    return total_of(problem, prior_precision, map(hessian, expansions(problem, z)))


def total_of(
    problem: LatentProblem, prior_precision: Tensor, hessians: Iterable[RowHessian]
) -> Tensor:
    """The information of the prior and of the rows, ``(d (l + 1), d (l + 1))``.

    Args:
        problem: the problem of the latents.
        prior_precision: prior precisions of the coefficients of a feature, ``(l + 1,)``.
        hessians: the Hessians of some rows each, which together are all.
    """
    prior = prior_blocks(problem, prior_precision)
    size = problem.num_features * problem.num_coefficients
    blocks, products = torch.zeros_like(prior), prior.new_zeros(size, size)
    for of_rows in hessians:
        blocks += of_rows.blocks
        of_rows.add_products(products)
    blocks, products = problem.sum(blocks, products)
    return torch.block_diag(*(prior + blocks)) + predictors_first(products, problem.num_features)


def by_predictor(prior_precision: Tensor, mode: Tensor) -> Tensor:
    """Prior precisions ``(l + 1,)`` or ``(d, l + 1)`` for every coefficient of ``mode``."""
    return prior_precision.to(mode).expand(mode.shape)


def prior_blocks(problem: LatentProblem, prior_precision: Tensor) -> Tensor:
    """The information of the prior per feature, ``(features, K (l + 1), K (l + 1))``."""
    own = prior_precision.double().expand(len(problem.b), -1)
    return torch.diag_embed(own.reshape(-1, predictors_of_feature(problem) * own.shape[-1]))


def expansions(problem: LatentProblem, z: Tensor) -> Iterator[Expansion]:
    """The expansions around the root, some rows at a time, in float64."""
    for tile in tiles(problem.num_rows, numbers_per_row(problem), z.device):
        yield Expansion(problem.rows(tile).double(), z[tile].double())


def numbers_per_row(problem: LatentProblem) -> int:
    """The numbers that the Hessian of a row consists of."""
    latent_dim = problem.latent_dim
    # The most numbers per coefficient: factors of products, or products with other levels.
    most = max(latent_dim * (latent_dim + 7) // 2, predictors_of_feature(problem))
    return problem.num_features * problem.num_coefficients * most


def predictors_of_feature(problem: LatentProblem) -> int:
    """The linear predictors ``K`` of a feature.

    All predictors of a table with categories beside other columns are one feature.
    """
    is_mixed = problem.levels == 1 and problem.family.is_coupled
    return problem.num_features if is_mixed else problem.levels


def losses_by_column(expansion: Expansion) -> OfOneFamily | OneColumn:
    """The derivatives of the losses feature by feature.

    Raises:
        ValueError: if the latents meet other tables or sites.
    """
    losses = expansion.losses
    if isinstance(losses, SideBySide):
        return OneColumn(losses)
    if not isinstance(losses, OfOneFamily):
        raise ValueError(
            "model must be a single block for the posterior of loading and intercept, got latents "
            "that several tables or other sites share"
        )
    return losses


def _profile_hessian(expansion: Expansion) -> RowHessian:
    missing = _times(expansion.whitening, _cross(expansion))
    none = missing[:, :0]
    return RowHessian(
        _of_design(expansion, losses_by_column(expansion).by_column()), missing, none, none
    )


def evidence_hessian(expansion: Expansion) -> RowHessian:
    r"""The Hessian of the joint objective, plus the Hessian of half the log determinant.

    With :math:`d\eta_i = x^\top d\theta_i + w_i^\top dz`, the second Hessian is the quadratic form

    .. math::
        \sum_i \bigl( \alpha_i\, d\eta_i^2 + 2\, d\eta_i\, \beta_i^\top dw_i
        + v_i\, dw_i^\top C\, dw_i + 2 \gamma_i\, dw_i^\top dz \bigr)
        - \tfrac12 \operatorname{tr}(C\, dH\, C\, dH),

    where the latents follow the coefficients, :math:`dz = -C \sum_i G_i^\top d\theta_i`. Their
    second derivative enters the form through the adjoint :math:`u`. For the levels of a category
    :math:`\alpha` and :math:`v` are matrices, and every pair of levels has a :math:`\beta`.
    """
    problem, z, losses = expansion.problem, expansion.z, losses_by_column(expansion)
    covariance, second = expansion.covariance, losses.by_column()
    adjoint = -0.5 * (covariance @ expansion.skew.unsqueeze(-1)).squeeze(-1)
    along = problem.map(adjoint)
    alpha = 0.5 * losses.fourth_by_column(expansion.predictor_variance, covariance)
    alpha = alpha + losses.third_by_column(along[..., None])[..., 0]
    beta = losses.third_by_column(problem.map.times(covariance))
    beta = beta + second[..., None] * adjoint[:, None, None, None]
    beta = pad(beta, (0, problem.num_coefficients - problem.latent_dim))
    gamma = 0.5 * expansion.log_det_slope + losses.times(along)

    design = problem.design(z)
    mixed = torch.einsum("sj,scpqk->cpjqk", design, beta).flatten(3).flatten(1, 2)
    blocks = _of_design(expansion, second + alpha) + mixed + mixed.mT + _of_spread(expansion)

    cross = _cross(expansion)
    follow = _times(-covariance, cross)
    W = problem.map.by_level(second.shape[-1])
    # Half of the cross derivative is of this form too.
    pairs = (alpha + 0.5 * second)[..., None] * design[:, None, None, None] + beta
    left = _along_loading(pairs, W)
    _diagonal(left).add_((gamma - 0.5 * problem.scores(expansion.eta))[..., None])

    # The derivative of the information has a part that follows the latents. Its products have the
    # right factor of all else that follows them, so they are terms of the left factor.
    direct, through = _of_information(expansion)
    of_latents = (alpha.flatten(1) @ _products_of_levels(W)).unflatten(-1, (z.shape[1],) * 2)
    left = _add_times(left, -through, direct)
    left = _add_times(left, 0.5 * (of_latents - through @ through.mT), follow)
    return RowHessian(blocks, direct, left, follow)


def _of_information(expansion: Expansion) -> tuple[Tensor, Tensor]:
    r"""The derivative of :math:`L^{-1} H L^{-\top} / \sqrt 2` in coefficients, and in latents.

    The matrix is symmetric. Its lower triangle is kept, with entries off the diagonal multiplied by
    :math:`\sqrt 2`, so that inner products of triangles are inner products of matrices. In the
    coefficients of a predictor it is :math:`k_i x\, g_i g_i^\top` with the whitened row
    :math:`g_i = L^{-1} w_i`, and the change of one of the two :math:`g_i`, by the curvature.

    Returns:
        The derivatives with the latents held, ``(n, l (l + 1) / 2, l + 1, d)``, and the derivatives
        in the latents, ``(n, l, l (l + 1) / 2)``.
    """
    problem, losses = expansion.problem, losses_by_column(expansion)
    root = expansion.whitening.mT
    row, column = torch.tril_indices(root.shape[-1], root.shape[-1], device=root.device)
    share = torch.where(row == column, math.sqrt(0.5), 1.0).to(root)
    white = problem.map.times(root)
    design = problem.design(expansion.z)
    of_natural = share * losses.third_of_products(white[..., row], white[..., column])
    # One product of matrices for both: of the weighted rows, and of the derivatives in predictors.
    eye, every = torch.eye(root.shape[-1]).to(root), torch.eye(len(row)).to(root)
    of_rows = share[:, None, None] * (
        root.mT[:, column, :, None] * eye[row, None] + root.mT[:, row, :, None] * eye[column, None]
    )
    of_rows = pad(of_rows, (0, 0, 0, design.shape[1] - root.shape[-1]))
    of_design = design[:, None, :, None] * every[:, None]
    basis = torch.cat([of_rows, of_design], -1)
    entries = torch.cat([losses.times_rows(white), of_natural], -1)
    return _times(basis.flatten(1, 2), entries.mT).unflatten(1, basis.shape[1:3]), (
        problem.W.mT @ of_natural
    )


def _along_loading(pairs: Tensor, W: Tensor) -> Tensor:
    r"""The sums :math:`\sum_q a_{scpqj} W_{cqk}` over the levels of a column, ``(n, l, m, d)``.

    Args:
        pairs: :math:`a`, ``(n, columns, K, K, m)``.
        W: the loading by level, ``(columns, K, l)``.
    """
    if W.shape[1] == 1:
        return pairs[:, :, 0, 0].mT[:, None] * W[:, 0].mT[:, None]
    products = (pairs[..., None] * W[:, None, :, None]).sum(3)
    return products.flatten(1, 2).permute(0, 3, 2, 1)


def _diagonal(factors: Tensor) -> Tensor:
    """A view of the entries ``k, k`` of factors ``(n, l, m, d)``, ``(n, d, l)``."""
    return factors.diagonal(dim1=1, dim2=2)


def _add_times(total: Tensor, matrices: Tensor, factors: Tensor) -> Tensor:
    """Factors ``(n, k, ...)`` plus products of a matrix per row with other ones."""
    added = torch.baddbmm(total.flatten(2), matrices, factors.flatten(2))
    return added.unflatten(2, factors.shape[2:])


def _times(matrices: Tensor, factors: Tensor) -> Tensor:
    """Products of a matrix per row with its factors ``(n, k, ...)``."""
    return (matrices @ factors.flatten(2)).unflatten(2, factors.shape[2:])


def _of_design(expansion: Expansion, entries: Tensor) -> Tensor:
    r""":math:`\sum_s k_{si} \otimes x_s x_s^\top` per feature.

    Args:
        expansion: the expansion of ``n`` rows.
        entries: :math:`k`, ``(n, features, K, K)``.
    """
    return _of_moments(entries, _products(expansion.problem.design(expansion.z)))


def _of_spread(expansion: Expansion) -> Tensor:
    r""":math:`\sum_s V_{si} \otimes C_s` per feature, with zeros for the intercept."""
    covariance = _wide_covariance(expansion.problem, expansion.covariance)
    return _of_moments(losses_by_column(expansion).by_column(), covariance.flatten(1))


def _wide_covariance(problem: LatentProblem, covariance: Tensor) -> Tensor:
    """The covariance of the design, ``(n, l + 1 + p, l + 1 + p)``: only latents are uncertain."""
    more = problem.num_coefficients - problem.latent_dim
    return pad(covariance, (0, more, 0, more))


def _of_moments(entries: Tensor, moments: Tensor) -> Tensor:
    """Sums over rows of Kronecker products of entries with moments ``(n, m * m)``, per feature."""
    levels, size = entries.shape[-1], math.isqrt(moments.shape[1])
    total = (entries.flatten(1).mT @ moments).view(-1, levels, levels, size, size)
    return total.transpose(2, 3).reshape(-1, levels * size, levels * size)


def _products(rows: Tensor) -> Tensor:
    """Products of pairs of entries of each row, ``(n, k * k)``."""
    return (rows[:, :, None] * rows[:, None, :]).flatten(1)


def _products_of_levels(rows: Tensor) -> Tensor:
    """Outer products of pairs of rows of a feature, ``(features * K * K, l * l)``."""
    return torch.einsum("cpj,cqk->cpqjk", rows, rows).flatten(3).flatten(0, 2)


def _cross(expansion: Expansion) -> Tensor:
    r"""The derivative of the score of the latents, :math:`H_{gs}`, ``(n, l, l + 1, d)``.

    The block of a predictor is :math:`G_i = x\, (V W)_i - r_i (I, 0)^\top`, since both factors of
    the gradient :math:`-r_i x` depend on the latents.
    """
    problem, z = expansion.problem, expansion.z
    design = problem.design(z)
    residual = problem.scores(expansion.eta)
    along = losses_by_column(expansion).times_rows(problem.W)
    product = design[:, None, :, None] * along.mT[:, :, None]
    _diagonal(product).sub_(residual[..., None])
    return product
