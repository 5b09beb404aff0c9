r"""Rotations of the latents: directions of a loading that only turn the basis of its latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gauge_directions(W: Tensor, num_coefficients: int | None = None) -> Tensor:
    r"""An orthonormal basis of the rotations of a loading, ``(d (l + 1 + p), m)``.

    They are :math:`W A` for antisymmetric :math:`A`. Along them the natural parameters are constant
    if the latents turn too, and intercepts and coefficients of covariates do not change. A change
    :math:`\delta` of the loading is orthogonal to all of them if and only if :math:`\delta^\top W`
    is symmetric. Then no rotation brings :math:`W + \delta` closer to :math:`W` (Schönemann,
    1966), so that a draw without these directions is aligned to ``W``. There are ``l (l - 1) / 2``
    of them, and fewer if latents have no loading.

    Args:
        W: loading, ``(d, l)``.
        num_coefficients: coefficients ``l + 1 + p`` of a linear predictor; by default ``l + 1``.
    """
    num_features, latent_dim = W.shape
    first, second = torch.tril_indices(latent_dim, latent_dim, -1, device=W.device)
    moves = W.new_zeros(len(first), num_features, num_coefficients or latent_dim + 1)
    pair = torch.arange(len(first), device=W.device)
    moves[pair, :, first] = W[:, second].T
    moves[pair, :, second] = -W[:, first].T
    left, size, _ = torch.linalg.svd(moves.flatten(1).T, full_matrices=False)
    smallest = torch.finfo(W.dtype).eps * num_features * float(W.norm()) if len(size) else 0.0
    return left[:, size > smallest]


def rotations_of(W: Tensor, free: Tensor) -> Tensor:
    """The rotations of the latents whose loading is free, ``(d (l + 1 + p), m)``.

    A loading that is known, such as the loading of a row effect, turns with no other.

    Args:
        W: loading, ``(d, l)``.
        free: booleans ``(l + 1 + p,)``, False for coefficients that are known.
    """
    among = free[: W.shape[1]].nonzero().flatten()
    own = gauge_directions(W[:, among])
    found = own.new_zeros(len(W), len(free), own.shape[1])
    found[:, among] = own.unflatten(0, (len(W), -1))[:, : len(among)]
    return found.flatten(0, 1)


def log_orbit_volume(W: Tensor) -> Tensor:
    r"""The log volume of all :math:`W Q` with orthogonal :math:`Q`, ``()``.

    The orthogonal matrices have the volume :math:`2 \prod_{k=1}^{l-1} |S^k|`, with the area
    :math:`|S^k|` of a sphere. Turning latents :math:`j < k` moves the loading at the rate
    :math:`\sqrt{\sigma_j^2 + \sigma_k^2}`, with its singular values :math:`\sigma`. For one latent
    the volume is 2, for the two signs.

    Args:
        W: loading, ``(d, l)``.

    Source: Minka, *Automatic choice of dimensionality for PCA* (2000), for the same integral.
    """
    latent_dim = W.shape[1]
    squares = torch.linalg.svdvals(W).square()
    squares = torch.nn.functional.pad(squares, (0, latent_dim - len(squares)))
    first, second = torch.tril_indices(latent_dim, latent_dim, -1, device=W.device)
    spheres = sum(
        math.log(2) + 0.5 * (k + 1) * math.log(math.pi) - math.lgamma(0.5 * (k + 1))
        for k in range(1, latent_dim)
    )
    return math.log(2) + spheres + 0.5 * (squares[first] + squares[second]).log().sum()


def cheapest_rotation(W: Tensor, precision: Tensor) -> Tensor:
    r"""The orthogonal :math:`Q` under which the penalty of a loading :math:`W Q` is least.

    The penalty :math:`\tfrac12 \sum_k p_k \|(W Q)_k\|^2` belongs to a prior with a precision per
    latent. It is least if the columns are orthogonal, with the longest column at the smallest
    precision. Columns of the same precision may turn among each other. They turn as little as
    possible, so that repeated calls come to rest.

    Args:
        W: loading, ``(d, l)``.
        precision: precision per latent, ``(l,)``.
    """
    _, axes = torch.linalg.eigh(W.double().mT @ W.double())
    rotation = torch.empty_like(axes)
    rotation[:, precision.argsort()] = axes.flip(-1)
    for value in precision.unique():
        same = precision == value
        left, _, right = torch.linalg.svd(rotation[same][:, same].mT)
        rotation[:, same] = rotation[:, same] @ (left @ right)
    return rotation.to(W)
