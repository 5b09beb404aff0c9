"""Sums over features of products of a loading's rows, without anything of size rows x d x l.

Only the distinct entries of symmetric matrices and tensors over the latents are computed. Each
function is then one matrix product of a table, rows x features, with products of the loading's
columns.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from pyro_expfam.deq.packed import places_in_triangle


def weighted_gram(entries: Tensor, W: Tensor) -> Tensor:
    r""":math:`W^\top \mathrm{diag}(v) W` for every row ``v`` of ``entries`` ``(..., N, d)``."""
    row, column = _pairs(W)
    return _unpack(entries @ (W[..., row] * W[..., column]), W)


def quadratic_forms(matrix: Tensor, W: Tensor) -> Tensor:
    r""":math:`w_i^\top C_s w_i` for symmetric ``C`` ``(..., N, l, l)``, as ``(..., N, d)``."""
    row, column = _pairs(W)
    # An off-diagonal entry counts twice.
    count = torch.where(row == column, 1.0, 2.0).to(W.dtype)
    return (matrix[..., row, column] * count) @ (W[..., row] * W[..., column]).mT


def weighted_products(entries: Tensor, matrix: Tensor, W: Tensor) -> Tensor:
    r""":math:`\sum_s v_{si} C_s w_i` for symmetric ``C`` ``(..., N, l, l)``, as ``(..., d, l)``.

    It is half the gradient in ``W`` of the sum of :func:`quadratic_forms` with weights
    ``entries`` ``(..., N, d)``.
    """
    row, column = _pairs(W)
    total = _unpack(entries.mT @ matrix[..., row, column], W)
    return (total @ W.unsqueeze(-1)).squeeze(-1)


def weighted_cubes(entries: Tensor, W: Tensor) -> Tensor:
    r""":math:`\sum_i k_{si}\, w_i \otimes w_i \otimes w_i`, as ``(..., N, l, l, l)``.

    The weights ``k`` are ``entries`` ``(..., N, d)``.
    """
    size = W.shape[-1]
    position = torch.arange(size, device=W.device)
    triples = torch.combinations(position, 3, with_replacement=True)
    place = torch.empty(size, size, size, dtype=torch.int64, device=W.device)
    for order in permutations(triples.unbind(-1)):
        place[order] = torch.arange(len(triples), device=W.device)
    first, second, third = triples.unbind(-1)
    return (entries @ (W[..., first] * W[..., second] * W[..., third]))[..., place]


def _pairs(W: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and columns of the lower triangle of a matrix over the latents."""
    size = W.shape[-1]
    row, column = torch.tril_indices(size, size, device=W.device)
    return row, column


def _unpack(packed: Tensor, W: Tensor) -> Tensor:
    """Symmetric matrices ``(..., l, l)`` of their lower triangles, row by row."""
    return packed[..., places_in_triangle(W.shape[-1], W.device)]
