r"""Moves along which the natural parameters stay and only the penalties change.

For any invertible :math:`R` and vector :math:`c`, latents :math:`R^\top (z - c)` with loading
:math:`W R^{-\top}` and intercept :math:`b + W c` give the same natural parameters. With covariates
``x`` of the rows, the part of the latents that follows ``x`` may be moved to their coefficients
too. Alternating between rows and columns is slow along these moves, but the best move has a closed
form.
"""

from __future__ import annotations

import torch
from torch import Tensor

RESOLVED = 1e-12
"""Directions of a geometric mean below this part of the largest one are rounding."""


def centring(
    products: Tensor,
    W: Tensor,
    known: Tensor,
    latent_precision: Tensor,
    gram: Tensor,
    precision: Tensor,
) -> Tensor:
    r"""The shift ``K`` ``(l, 1 + p)`` of the latents that minimises the penalties.

    Latents :math:`z_s - K u_s` with coefficients :math:`B + W K` of the known numbers
    :math:`u_s = (1, x_s)` of a row, which are intercept and coefficients of covariates, give the
    same natural parameters. With the prior precisions :math:`\Pi = \operatorname{diag}(\pi)` of the
    columns of :math:`B`, the penalties
    :math:`\tfrac{\lambda}{2} \sum_s \|z_s - K u_s\|^2
    + \tfrac12 \sum_k \pi_k \|B_k + W K_k\|^2` are least where

    .. math:: \lambda K U^\top U + W^\top W K \Pi = \lambda Z^\top U - W^\top B \Pi.

    In the basis of the eigenvectors of :math:`W^\top W` the rows of ``K`` are apart. Without
    covariates and under a flat prior of the intercept, ``K`` is the mean of the latents.

    Args:
        products: :math:`Z^\top U`, ``(l, 1 + p)``.
        W: loading, ``(d, l)``.
        known: :math:`B`, intercept and coefficients of covariates, ``(d, 1 + p)``.
        latent_precision: :math:`\lambda`, ``()``.
        gram: :math:`U^\top U`, ``(1 + p, 1 + p)``.
        precision: :math:`\pi`, ``(1 + p,)``, or by linear predictor, ``(d, 1 + p)``; 0 for a flat
            prior.
    """
    lam, of_prior = float(latent_precision), precision.double()
    W, known, gram = W.double(), known.double(), gram.double()
    if precision.dim() == 1:
        squares, axes = torch.linalg.eigh(W.T @ W)
        target = axes.T @ (lam * products.double() - (W.T @ known) * of_prior)
        matrix = lam * gram + squares.clamp(min=0)[:, None, None] * torch.diag(of_prior)
        return (axes @ solve_scaled(matrix, target)).to(precision.dtype)
    target = lam * products.double() - W.T @ (of_prior * known)
    # The columns of the shift one below the other.
    penalties = torch.einsum("ij,ik,im->kjm", W, of_prior, W)
    matrix = torch.kron(lam * gram, torch.eye(len(target)).to(gram)) + torch.block_diag(*penalties)
    shift = solve_scaled(matrix, target.T.flatten())
    return shift.view(target.T.shape).T.to(precision.dtype)


def solve_scaled(matrix: Tensor, target: Tensor) -> Tensor:
    """Solutions ``(..., k)`` of symmetric positive semidefinite systems in units of their own.

    Where a system says nothing of a direction, as of a covariate of zeros, the solution is zero.

    Args:
        matrix: ``(..., k, k)``.
        target: ``(..., k)``.
    """
    size = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = torch.where(size > 0, size, 1.0)
    scaled = matrix / (unit[..., :, None] * unit[..., None, :])
    inverse = torch.linalg.pinv(scaled, hermitian=True)
    return (inverse @ (target / unit).unsqueeze(-1)).squeeze(-1) / unit


def common_part(
    W: Tensor, gram_z: Tensor, loading_precision: float | Tensor, latent_precision: Tensor
) -> Tensor:
    r"""The part of the latents to add to a row effect, ``(l - 1,)``, by which penalties are least.

    A row effect is the last latent, of loading :math:`c` in every column. The effect
    :math:`u_s + a^\top z_s` with the loading :math:`W - c \mathbf 1 a^\top` of all other latents
    gives the same natural parameters. With the prior precisions :math:`\pi` of the loading, the
    penalties :math:`\tfrac{\lambda}{2} \sum_s (u_s + a^\top z_s)^2
    + \tfrac12 \sum_i \pi_i \|W_i - c a\|^2` are least where

    .. math:: (\lambda Z^\top Z + c^2 \sum_i \pi_i I) \, a
        = c \sum_i \pi_i W_i - \lambda Z^\top u.

    Args:
        W: the loading with the effect last, ``(d, l)``.
        gram_z: the products of latents, ``(l, l)``.
        loading_precision: :math:`\pi`, one number or ``(d, 1)``.
        latent_precision: :math:`\lambda`, ``()``.
    """
    W, gram_z = W.double(), float(latent_precision) * gram_z.double()
    effect = W[:, -1:]
    weighted = torch.as_tensor(loading_precision).to(W) * effect
    matrix = gram_z[:-1, :-1].clone()
    matrix.diagonal().add_((weighted * effect).expand(len(W), 1).sum())
    target = (weighted * W[:, :-1]).sum(0) - gram_z[:-1, -1]
    return solve_scaled(matrix, target)


def balancing(gram_z: Tensor, gram_W: Tensor) -> Tensor | None:
    r"""The change of basis that minimises the penalties of latents and loading, ``(l, l)``.

    The penalties are :math:`\tfrac12 \operatorname{tr}(R^\top A R)` and
    :math:`\tfrac12 \operatorname{tr}(R^{-1} B R^{-\top})`. The best :math:`R` is the symmetric root
    of the geometric mean of :math:`A^{-1}` and :math:`B`,
    :math:`R R^\top = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}` (Bhatia, *Positive definite
    matrices*, 2007, section 4.1). Both penalties are equal there.

    Args:
        gram_z: :math:`A = \lambda Z^\top Z`, ``(l, l)``.
        gram_W: :math:`B = W^\top W / \tau^2`, ``(l, l)``.

    Returns:
        The symmetric :math:`R`, or None if the latents or the loading vanish in some direction or
        a prior is flat.
    """
    A, B = _symmetric(gram_z), _symmetric(gram_W)
    values, vectors = torch.linalg.eigh(A)
    if not bool((values > 1e-9 * values[-1]).all() & (torch.linalg.eigvalsh(B)[0] > 0)):
        return None
    root = vectors * values.sqrt() @ vectors.T
    inverse_root = vectors / values.sqrt() @ vectors.T
    mean = inverse_root @ _root(_symmetric(root @ B @ root)) @ inverse_root
    # Where latents and loading nearly vanish together, rounding leaves no geometric mean.
    values = torch.linalg.eigvalsh(mean)
    return _root(mean) if bool(values[0] > RESOLVED * values[-1]) else None


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _symmetric(matrix: Tensor) -> Tensor:
    """A matrix that is symmetric but for rounding, in float64.

    An eigensolver reads one half of it alone. In a direction that nearly vanishes the halves of a
    product in float32 differ by more than is left.
    """
    precise = matrix.double()
    return (precise + precise.T) / 2
