"""Rotations of a loading that bring columns near to single latents."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

MOST_SWEEPS = 200
AT_REST = 1e-10
RANDOM_STARTS = 4
POWER = 4
"""The power of promax, as Hendrickson and White recommend."""


def varimax(W: Tensor, start: Tensor | None = None) -> Tensor:
    r"""The rotation ``R``, ``(l, l)``, for which the squares of ``W R`` vary most in each column.

    Rows of the loading are first scaled to length 1 (Kaiser's normalisation).

    Args:
        W: the loading, ``(d, l)``.
        start: the rotation to start from, by default none.

    Source: Kaiser (1958), *The varimax criterion for analytic rotation in factor analysis*.

    Example:
        >>> import torch
        >>> from pyro_expfam.loadings import varimax
        >>> turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
        >>> W = torch.tensor([[1.5, 0.0], [2.5, 0.0], [0.0, 1.5]]) @ turn
        >>> (W @ varimax(W)).abs().round(decimals=3).sort().values.tolist()
        [[0.0, 1.5], [0.0, 2.5], [0.0, 1.5]]
    """
    rows = W.double()
    lengths = rows.norm(dim=1, keepdim=True)
    rows = torch.where(lengths > 0, rows / lengths, 0.0)
    starts = _starts(W.shape[1]) if start is None else [start.double()]
    found = [_improved(rows, R) for R in starts]
    return max(found, key=lambda R: _criterion(rows @ R)).to(W)


def _starts(size: int) -> list[Tensor]:
    """No rotation, and some random ones, since no rotation at all may be a saddle."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(RANDOM_STARTS, size, size, generator=generator, dtype=torch.float64)
    return [torch.eye(size, dtype=torch.float64), *torch.linalg.qr(noise)[0]]


def _improved(rows: Tensor, R: Tensor) -> Tensor:
    """A rotation at a maximum of the criterion, by turns in the plane of two latents each."""
    rotation, rotated = R.numpy().copy(), (rows @ R).numpy()
    for _ in range(MOST_SWEEPS):
        largest = 0.0
        for one, other in itertools.combinations(range(len(rotation)), 2):
            angle = _best_angle(rotated[:, one], rotated[:, other])
            cos, sin = math.cos(angle), math.sin(angle)
            turn = np.array([[cos, -sin], [sin, cos]])
            for matrix in (rotated, rotation):
                matrix[:, [one, other]] = matrix[:, [one, other]] @ turn
            largest = max(largest, abs(angle))
        if largest < AT_REST:
            break
    return torch.as_tensor(rotation)


def _best_angle(x: Array, y: Array) -> float:
    """The angle in the plane of two columns at which their criterion is greatest.

    Source: Kaiser (1958), equation 13.
    """
    u, v = x**2 - y**2, 2 * x * y
    A, B = u.sum(), v.sum()
    numerator = 2 * (u * v).sum() - 2 * A * B / len(x)
    denominator = (u**2 - v**2).sum() - (A**2 - B**2) / len(x)
    return math.atan2(numerator, denominator) / 4


def _criterion(rotated: Tensor) -> float:
    return float(rotated.square().var(0, correction=0).sum())


def promax(W: Tensor, start: Tensor | None = None) -> Tensor:
    r"""The matrix ``T``, ``(l, l)``, that makes small entries of a varimax loading smaller.

    The loading is :math:`W T`, the latents are :math:`T^{-1} z`, and they are correlated, with
    variances of 1.

    Args:
        W: the loading, ``(d, l)``.
        start: the rotation that varimax starts from, by default none.

    Source: Hendrickson and White (1964), *Promax: a quick method for rotation to oblique simple
    structure*.
    """
    R = varimax(W, start).double()
    rotated = W.double() @ R
    target = rotated * rotated.abs().pow(POWER - 1)
    T = torch.linalg.lstsq(rotated, target).solution
    scale = torch.linalg.inv(T.mT @ T).diagonal().sqrt()
    return (R @ T * scale).to(W)
