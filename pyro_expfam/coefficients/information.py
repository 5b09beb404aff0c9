r"""The information of a table on loading and intercept, with latents eliminated or integrated out.

The coefficients of a feature are its loading and its intercept, :math:`\theta_i = (w_i, b_i)`. The
coefficients of all features, one after the other, are ``d (l + 1)`` numbers. Their Hessian is a sum
of two parts. The first has one block per feature, since entries are independent given the latents.
The second is a sum of products of factors per row, no wider than the latents and their covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import SUMMED, gradients
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.evidence.expansion import Expansion


class RowHessian(NamedTuple):
    r"""The Hessian of some rows in parts: :math:`B + \sum_s (P_s + P_s^\top - M_s M_s^\top)`.

    Attributes:
        blocks: :math:`B`, one block per feature, ``(d, l + 1, l + 1)``.
        missing: the factors :math:`M_s`, ``(n, d, l + 1, k)``.
        left: the left factors of the products :math:`P_s`, ``(n, d, l + 1, m)``.
        right: the right factors, of the same shape.
    """

    blocks: Tensor
    missing: Tensor
    left: Tensor
    right: Tensor

    def by_feature(self) -> Tensor:
        """The diagonal blocks of the Hessian, ``(d, l + 1, l + 1)``."""
        missing, left, right = (
            factor.permute(1, 2, 0, 3).flatten(-2)
            for factor in (self.missing, self.left, self.right)
        )
        product = left @ right.mT
        return self.blocks - missing @ missing.mT + product + product.mT

    def products(self) -> Tensor:
        """The Hessian without its blocks :math:`B`, ``(d (l + 1), d (l + 1))``."""
        missing, left, right = (
            factor.permute(1, 2, 0, 3).flatten(0, 1).flatten(1)
            for factor in (self.missing, self.left, self.right)
        )
        product = left @ right.mT
        return product + product.mT - missing @ missing.mT


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
    return _total(_evidence_hessian, problem, prior_precision, z)


def information_by_feature(problem: LatentProblem, prior_precision: Tensor, z: Tensor) -> Tensor:
    """The diagonal blocks of :func:`evidence_information`, ``(d, l + 1, l + 1)``."""
    total = torch.diag(prior_precision.double())
    for part in expansions(problem, z):
        total = total + _evidence_hessian(part).by_feature()
    return total


def weighted_information_gradient(problem: LatentProblem, weight: Tensor, z: Tensor) -> Tensor:
    r"""The gradient in the coefficients of :math:`\operatorname{tr}(C I)` at constant ``C``.

    :math:`I` is the :func:`evidence_information`, with the root following the coefficients. Where
    ``C`` is the inverse of :math:`I`, this is the gradient of the log determinant of :math:`I`.

    Args:
        problem: the problem of the latents, without batch dimensions.
        weight: :math:`C`, symmetric, ``(d (l + 1), d (l + 1))``.
        z: the root, ``(N, l)``.

    Returns:
        The gradient, ``(d, l + 1)``.
    """
    size = problem.latent_dim + 1
    number = torch.arange(len(problem.b), device=weight.device)
    blocks = weight.unflatten(1, (-1, size)).unflatten(0, (-1, size))[number, :, number]
    total = weight.new_zeros(len(problem.b), size)
    for part in expansions(problem, z):
        rows = part.problem
        W, b = (rows.fields[name].detach().requires_grad_() for name in ("W", "b"))
        at = part.z.detach().requires_grad_()
        with torch.enable_grad():
            hessian = _evidence_hessian(Expansion(rows.with_fields({"W": W, "b": b}), at))
            value = (blocks * hessian.blocks).sum() + (weight * hessian.products()).sum()
        to_W, to_b, to_root = torch.autograd.grad(value, (W, b, at))
        through = gradients(rows, part.z, to_root, SUMMED)
        of_b = (to_b + through["b"])[:, None]
        total = total + torch.cat([to_W + through["W"], of_b], 1)
    return total


def complete_information(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The information of each feature if latents are normal around their root.

    It is :math:`\sum_s v_{si} \mathrm E[x_s x_s^\top]` with :math:`x_s = (z_s, 1)`, which is
    positive semidefinite. The information of a prior is not included.

    Args:
        problem: the problem of the latents, without batch dimensions.
        z: the root of the problem, ``(N, l)``.

    Returns:
        The information, ``(d, l + 1, l + 1)``.
    """
    num_features, latent_dim = problem.num_features, problem.latent_dim
    total = problem.b.new_zeros(num_features, latent_dim + 1, latent_dim + 1)
    for tile in tiles(problem.num_rows, max(num_features, (latent_dim + 1) ** 2), z.device):
        part = Expansion(problem.rows(tile).double(), z[tile].double())
        # Both are weighted sums over rows of a matrix of the row.
        design = pad(part.z, (0, 1), value=1.0)
        moments = _products(design) + pad(part.covariance, (0, 1, 0, 1)).flatten(1)
        total += (_weight(part).mT @ moments).view_as(total)
    return total


def complete_information_gradient(problem: LatentProblem, blocks: Tensor, z: Tensor) -> Tensor:
    r"""The gradient of :math:`\operatorname{tr}(C_i I_i)` per feature, as if latents were known.

    With latents known to be at the root, :math:`I_i = \sum_s v_{si} x_s x_s^\top`, and the gradient
    is :math:`\sum_s A'''_{si} (x_s^\top C_i x_s)\, x_s`.

    Args:
        problem: the problem of the latents, without batch dimensions.
        blocks: :math:`C_i`, symmetric, ``(d, l + 1, l + 1)``.
        z: the root, ``(N, l)``.

    Returns:
        The gradient, ``(d, l + 1)``.
    """
    total = blocks.new_zeros(blocks.shape[:2])
    for tile in tiles(problem.num_rows, max(blocks.shape[0], blocks[0].numel()), z.device):
        part = Expansion(problem.rows(tile).double(), z[tile].double())
        design = pad(part.z, (0, 1), value=1.0)
        spread = _products(design) @ blocks.flatten(1).mT
        total += (part.third * spread).mT @ design
    return total


def _total(
    hessian: Callable[[Expansion], RowHessian],
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
) -> Tensor:
    blocks, products = torch.diag(prior_precision.double()), None
    for part in expansions(problem, z):
        of_rows = hessian(part)
        blocks = blocks + of_rows.blocks
        products = of_rows.products() if products is None else products + of_rows.products()
    return torch.block_diag(*blocks) + products


def expansions(problem: LatentProblem, z: Tensor) -> Iterator[Expansion]:
    """The expansions around the root, some rows at a time, in float64."""
    if problem.family.predictors_per_column > 1:
        raise NotImplementedError(
            "the covariance of loading and intercept is not available for categories, got "
            f"{problem.family}: use point estimates, or NUTS"
        )
    num_features, latent_dim = problem.num_features, problem.latent_dim
    row_entries = num_features * (latent_dim + 1) * latent_dim * (latent_dim + 7) // 2
    for tile in tiles(problem.num_rows, row_entries, z.device):
        yield Expansion(problem.rows(tile).double(), z[tile].double())


def _profile_hessian(expansion: Expansion) -> RowHessian:
    missing = _cross(expansion) @ _root_covariance(expansion)
    none = missing[..., :0]
    return RowHessian(_of_design(expansion, _weight(expansion)), missing, none, none)


def _evidence_hessian(expansion: Expansion) -> RowHessian:
    r"""The Hessian of the joint objective, plus the Hessian of half the log determinant.

    With :math:`d\eta_i = x^\top d\theta_i + w_i^\top dz`, the second Hessian is the quadratic form

    .. math::
        \sum_i \bigl( \alpha_i\, d\eta_i^2 + 2\, d\eta_i\, \beta_i^\top dw_i
        + v_i\, dw_i^\top C\, dw_i + 2 \gamma_i\, dw_i^\top dz \bigr)
        - \tfrac12 \operatorname{tr}(C\, dH\, C\, dH),

    where the latents follow the coefficients, :math:`dz = -C \sum_i G_i^\top d\theta_i`. Their
    second derivative enters the form through the adjoint :math:`u`.
    """
    problem, z = expansion.problem, expansion.z
    weight, third = _weight(expansion), expansion.third
    adjoint = -0.5 * (expansion.covariance @ expansion.skew.unsqueeze(-1)).squeeze(-1)
    along = problem.map(adjoint)
    alpha = 0.5 * expansion.fourth * expansion.predictor_variance + third * along
    beta = third[..., None] * problem.map.times(expansion.covariance)
    beta = pad(beta + weight[..., None] * adjoint[:, None], (0, 1))
    gamma = 0.5 * third * expansion.predictor_variance + weight * along

    design = pad(z, (0, 1), value=1.0)
    mixed = torch.einsum("sj,sik->ijk", design, beta)
    blocks = _of_design(expansion, weight + alpha) + mixed + mixed.mT + _of_spread(expansion)

    cross = _cross(expansion)
    follow = -cross @ expansion.covariance[:, None]
    left = (alpha[..., None] * design[:, None] + beta)[..., None] * problem.W[:, None]
    left[:, :, :-1] += gamma[..., None, None] * torch.eye(z.shape[1]).to(z)
    of_latents = (alpha @ _products(problem.W)).unflatten(-1, (z.shape[1],) * 2)
    left = left + 0.5 * follow @ of_latents[:, None]

    missing = [cross @ _root_covariance(expansion), _of_information(expansion, follow)]
    return RowHessian(blocks, torch.cat(missing, -1), left, follow)


def _of_information(expansion: Expansion, follow: Tensor) -> Tensor:
    r"""The derivative of :math:`L^{-1} H L^{-\top} / \sqrt 2`, ``(n, d, l + 1, l (l + 1) / 2)``.

    The matrix is symmetric. Its lower triangle is kept, with entries off the diagonal multiplied by
    :math:`\sqrt 2`, so that inner products of triangles are inner products of matrices.
    """
    problem, third = expansion.problem, expansion.third
    root = _root_covariance(expansion)[:, 0]
    row, column = torch.tril_indices(root.shape[-1], root.shape[-1], device=root.device)
    share = torch.where(row == column, math.sqrt(0.5), 1.0).to(root)
    white = problem.map.times(root)
    design = pad(expansion.z, (0, 1), value=1.0)
    outer = share * white[..., row] * white[..., column]
    of_natural = third[..., None] * outer
    first = white[:, :, None, row] * root[:, None, :, column]
    second = white[:, :, None, column] * root[:, None, :, row]
    of_loading = (_weight(expansion)[..., None, None] * share) * (first + second)
    through_latents = torch.einsum("sik,ij->sjk", of_natural, problem.W)
    return (
        pad(of_loading, (0, 0, 0, 1))
        + design[:, None, :, None] * of_natural[:, :, None]
        + follow @ through_latents[:, None]
    )


def _weight(expansion: Expansion) -> Tensor:
    return expansion.curvature


def _root_covariance(expansion: Expansion) -> Tensor:
    r""":math:`L^{-\top}` with :math:`H = L L^\top`, ``(n, 1, l, l)``."""
    return expansion.whitening.mT[:, None]


def _of_design(expansion: Expansion, entries: Tensor) -> Tensor:
    r""":math:`\sum_s k_{si} x_s x_s^\top` for weights ``k`` ``(n, d)``, per feature."""
    design = pad(expansion.z, (0, 1), value=1.0)
    return (entries.mT @ _products(design)).unflatten(-1, (design.shape[1],) * 2)


def _of_spread(expansion: Expansion) -> Tensor:
    r""":math:`\sum_s v_{si} C_s` per feature, with zeros for the intercept."""
    covariance = pad(expansion.covariance, (0, 1, 0, 1))
    return (_weight(expansion).mT @ covariance.flatten(1)).unflatten(-1, covariance.shape[1:])


def _products(rows: Tensor) -> Tensor:
    """Products of pairs of entries of each row, ``(n, k * k)``."""
    return (rows[:, :, None] * rows[:, None, :]).flatten(1)


def _cross(expansion: Expansion) -> Tensor:
    r"""The derivative of the score of the latents, :math:`H_{gs}`, ``(n, d, l + 1, l)``.

    The block of a feature is :math:`G_i = v_i x w_i^\top - r_i (I, 0)^\top`, since both factors of
    the gradient :math:`-r_i x` depend on the latents.
    """
    problem, z = expansion.problem, expansion.z
    design = pad(z, (0, 1), value=1.0)
    residual = problem.scores(expansion.eta)
    along = _weight(expansion)[..., None] * problem.W
    product = design[:, None, :, None] * along[:, :, None, :]
    product[:, :, :-1] -= residual[:, :, None, None] * torch.eye(z.shape[1]).to(z)
    return product
