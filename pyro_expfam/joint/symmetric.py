"""Symmetric matrices as the vectors of their lower triangles, row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def products_of_pairs(factors: Tensor) -> Tensor:
    """Products of pairs of columns ``(..., n, k)``, ``(..., n, k (k + 1) / 2)``."""
    row, column = torch.tril_indices(*2 * (factors.shape[-1],), device=factors.device)
    return factors[..., row] * factors[..., column]


def symmetric(packed: Tensor, precision: Tensor) -> Tensor:
    """Matrices ``(..., k, k)`` from lower triangles, with a precision added to the diagonal."""
    size = int((2 * packed.shape[-1]) ** 0.5)
    row, column = torch.tril_indices(size, size, device=packed.device)
    matrices = packed.new_empty(*packed.shape[:-1], size, size)
    matrices[..., row, column] = packed
    matrices[..., column, row] = packed
    matrices.diagonal(dim1=-2, dim2=-1).add_(precision)
    return matrices
