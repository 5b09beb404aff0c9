"""Rotations that bring draws of a loading and latents into one basis."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_ROUNDS = 100
"""The most rounds of the mean of aligned draws; usually a handful suffice."""

TOLERANCE = 1e-12
"""The relative change of the mean of aligned draws below which the rounds end."""


class AlignedDraws(NamedTuple):
    """Draws in the basis of a reference.

    Attributes:
        loading: the loadings, ``(..., d, l)``.
        latents: the latents, ``(..., N, l)``, or None if none were given.
        rotation: the orthogonal matrix that each draw was multiplied by, ``(..., l, l)``.
        reference: the loading that the draws were aligned to, ``(d, l)``.
    """

    loading: Tensor
    latents: Tensor | None
    rotation: Tensor
    reference: Tensor


@torch.no_grad()
def align_draws(loading: Any, latents: Any = None, reference: Any = None) -> AlignedDraws:
    r"""Draws of a loading and its latents, each rotated to be closest to a reference.

    :math:`(W, z)` and :math:`(W Q, Q^\top z)` are the same model for every orthogonal
    :math:`Q`, so that draws of single coordinates, and means over draws, measure the rotation.
    Each draw is multiplied by the orthogonal matrix that minimises
    :math:`\|W Q - W_0\|_F`. It is :math:`U V^\top` for the singular value decomposition
    :math:`W^\top W_0 = U \Sigma V^\top` (Schönemann, *A generalized solution of the orthogonal
    Procrustes problem*, 1966), and includes reflections.

    Without a reference, draws are aligned to their own mean in turns (Gower, *Generalized
    Procrustes analysis*, 1975), and the mean to its principal axes. Its columns are then orthogonal
    and in order of decreasing norm, and the entry of largest absolute value in each is positive. In
    this basis, the coordinates :math:`R z` of the paper's pictures, with :math:`W = Q R`, are
    latents times the norms of the columns. A single loading ``(d, l)`` is thus rotated to its
    principal axes. A covariance ``C`` of latents becomes ``rotation.mT @ C @ rotation``.

    Args:
        loading: loadings, ``(..., d, l)``. If all draws have the same loading, the latents
            ``(..., N, l)`` of several fits can take its place.
        latents: latents that belong to the loadings, ``(..., N, l)``, with the same leading
            dimensions.
        reference: the loading to align to, ``(d, l)``.

    Returns:
        :class:`AlignedDraws`, with the same natural parameters as the given draws.

    Raises:
        TypeError: if an argument holds no floating-point numbers.
        ValueError: if shapes do not fit, or a loading is not finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.diagnostics import align_draws
        >>> W, z = torch.randn(6, 2), torch.randn(10, 2)
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> draws = torch.stack([W, W @ turn]), torch.stack([z, z @ turn])
        >>> aligned = align_draws(*draws)
        >>> torch.allclose(aligned.loading[0], aligned.loading[1], atol=1e-6)
        True
        >>> torch.allclose(aligned.latents[0] @ aligned.loading[0].T, z @ W.T, atol=1e-5)
        True
    """
    W = _matrices("loading", loading)
    if not bool(W.isfinite().all()):
        raise ValueError("loading must be finite, got infinite or missing values")
    z = None if latents is None else _latents(latents, W)
    exact = W.double()
    if reference is None:
        target = to_principal_axes(_procrustes_mean(exact.reshape(-1, *W.shape[-2:])))
    else:
        target = _reference(reference, W).to(exact)
    rotation = procrustes_rotation(exact, target).to(W.dtype)
    return AlignedDraws(
        W @ rotation, None if z is None else z @ rotation.to(z), rotation, target.to(W.dtype)
    )


def procrustes_rotation(draws: Tensor, target: Tensor) -> Tensor:
    """The orthogonal matrices ``(..., l, l)`` that bring ``(..., d, l)`` closest to ``(d, l)``."""
    U, _, Vh = torch.linalg.svd(draws.mT @ target)
    return U @ Vh


def to_principal_axes(W: Tensor) -> Tensor:
    """The loading ``(d, l)`` rotated to orthogonal columns, sorted by norm, with fixed signs."""
    triangle = torch.linalg.qr(W, mode="r").R
    rotated = W @ torch.linalg.svd(triangle).Vh.mT
    largest = rotated.gather(0, rotated.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -rotated, rotated)


def _procrustes_mean(draws: Tensor) -> Tensor:
    """The mean ``(d, l)`` of draws ``(S, d, l)`` after alignment to this mean."""
    mean = draws[0]
    for _ in range(MAX_ROUNDS):
        previous = mean
        mean = (draws @ procrustes_rotation(draws, previous)).mean(0)
        if (mean - previous).norm() <= TOLERANCE * mean.norm():
            break
    return mean


def _matrices(name: str, x: Any) -> Tensor:
    tensor = torch.as_tensor(x)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {tensor.dtype}")
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(
            f"{name} must be of shape (..., rows, latents), not empty, got {tuple(tensor.shape)}"
        )
    return tensor


def _latents(latents: Any, W: Tensor) -> Tensor:
    z = _matrices("latents", latents)
    if z.shape[:-2] != W.shape[:-2] or z.shape[-1] != W.shape[-1]:
        wanted = ", ".join(map(str, (*W.shape[:-2], "N", W.shape[-1])))
        raise ValueError(
            f"latents must be of shape ({wanted}) for a loading of shape {tuple(W.shape)}, "
            f"got {tuple(z.shape)}"
        )
    return z


def _reference(reference: Any, W: Tensor) -> Tensor:
    target = _matrices("reference", reference)
    if target.shape != W.shape[-2:]:
        raise ValueError(
            f"reference must be of shape {tuple(W.shape[-2:])}, got {tuple(target.shape)}"
        )
    if not bool(target.isfinite().all()):
        raise ValueError("reference must be finite, got infinite or missing values")
    return target
