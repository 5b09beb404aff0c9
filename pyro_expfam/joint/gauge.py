r"""Moves along which the natural parameters stay and only the penalties change.

For any invertible :math:`R` and vector :math:`c`, latents :math:`R^\top (z - c)` with loading
:math:`W R^{-\top}` and intercept :math:`b + W c` give the same natural parameters. Alternating
between rows and columns is slow along these moves, but the best move has a closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor


def centring(
    mean: Tensor,
    num_rows: int,
    W: Tensor,
    b: Tensor,
    latent_precision: Tensor,
    intercept_precision: float | Tensor,
) -> Tensor:
    r"""The shift ``c`` ``(l,)`` of the latents that minimises the penalties.

    The penalties of latents and intercept,
    :math:`\tfrac{\lambda}{2} \sum_s \|z_s - c\|^2 + \tfrac{1}{2\rho^2} \|b + W c\|^2`, are least
    where

    .. math:: (\lambda N I + \rho^{-2} W^\top W)\, c = \lambda N \bar z - \rho^{-2} W^\top b.

    Under a flat prior of the intercept, ``c`` is the mean of the latents.

    Args:
        mean: the mean of the latents, ``(l,)``, in double precision.
        num_rows: rows ``N``.
        W: loading, ``(d, l)``.
        b: intercept, ``(d,)``.
        latent_precision: :math:`\lambda`, ``()``.
        intercept_precision: :math:`\rho^{-2}`, one number or one per linear predictor, ``(d,)``; 0
            for a flat prior.
    """
    of_latents, dtype = float(latent_precision) * num_rows, W.dtype
    W, b = W.double(), b.double()
    precision = torch.as_tensor(intercept_precision, dtype=W.dtype, device=W.device)
    weighted = precision.expand(len(W))[:, None] * W
    matrix = weighted.T @ W
    matrix.diagonal().add_(of_latents)
    target = of_latents * mean - b @ weighted
    return torch.linalg.solve(matrix, target).to(dtype)


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
    A, B = gram_z.double(), gram_W.double()
    values, vectors = torch.linalg.eigh(A)
    if not bool((values > 1e-9 * values[-1]).all() & (torch.linalg.eigvalsh(B)[0] > 0)):
        return None
    root = vectors * values.sqrt() @ vectors.T
    inverse_root = vectors / values.sqrt() @ vectors.T
    mean = inverse_root @ _root(root @ B @ root) @ inverse_root
    return _root(mean)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
