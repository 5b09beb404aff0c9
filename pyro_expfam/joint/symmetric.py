"""Symmetric matrices as the vectors of their lower triangles, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.packed import places_in_triangle


def products_of_pairs(factors: Tensor) -> Tensor:
    """Products of pairs of columns ``(..., n, k)``, ``(..., n, k (k + 1) / 2)``."""
    size = factors.shape[-1]
    products = factors.new_empty(*factors.shape[:-1], size * (size + 1) // 2)
    # Some products at a time take a quarter of the time of two selections of all of them.
    for k in range(size):
        own = products[..., k * (k + 1) // 2 : (k + 1) * (k + 2) // 2]
        torch.mul(factors[..., : k + 1], factors[..., k : k + 1], out=own)
    return products


def symmetric(packed: Tensor, precision: Tensor) -> Tensor:
    """Matrices ``(..., k, k)`` from lower triangles, with a precision added to the diagonal."""
    size = int((2 * packed.shape[-1]) ** 0.5)
    place = places_in_triangle(size, packed.device).flatten()
    # A selection from a matrix is several times as fast as one from more dimensions.
    found = packed.reshape(-1, packed.shape[-1]).index_select(1, place)
    matrices = found.view(*packed.shape[:-1], size, size)
    matrices.diagonal(dim1=-2, dim2=-1).add_(precision)
    return matrices
