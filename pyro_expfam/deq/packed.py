"""Newton directions from packed information matrices, rows last."""

from __future__ import annotations

import torch
from torch import Tensor

UNROLLED_DIM = 3
"""The largest system solved by elementwise operations over all rows at once.

Measured on two CPU threads for 500 to 4,000 systems: up to 3 x 3 the elementwise operations take no
longer than a batched LAPACK call, which loops over matrices, and a third of its time at 4,000.
"""

SMALLEST_PIVOT = {torch.float32: 1e-4, torch.float64: 1e-13}
"""The least ratio of a pivot to its diagonal entry in a matrix that counts as resolved.

Elimination cancels the rest of the diagonal entry, and with it digits. Below this ratio, rounding
of the score moves the solution by more than about a hundredth of a posterior standard deviation.
"""


def solve_packed(packed: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions of positive definite systems, and which of the matrices are positive definite.

    Args:
        packed: lower triangles of symmetric matrices row by row, ``(l (l + 1) / 2, N)``, or
            ``(l (l + 1) / 2, 1)`` of one matrix for all right-hand sides.
        vector: right-hand sides, ``(l, N)``.

    Returns:
        The solutions, ``(l, N)``, and booleans ``(N,)``: False where a matrix is not finite or the
        dtype lacks the digits for it; the solution is meaningless there.
    """
    size, num_systems = vector.shape
    if size <= UNROLLED_DIM:
        solution, resolved = _unrolled_solve(packed, vector)
    else:
        matrix = unpack(packed, size)
        factor, _ = torch.linalg.cholesky_ex(matrix)
        # The columns that each factor solves for.
        columns = vector.T.reshape(len(matrix), num_systems // max(len(matrix), 1), size).mT
        solution = torch.cholesky_solve(columns, factor).mT.reshape(num_systems, size).T
        resolved = resolves(factor, matrix)
    return solution.contiguous(), resolved.expand(num_systems).contiguous()


def resolves(factor: Tensor, matrix: Tensor) -> Tensor:
    """Whether lower Cholesky factors ``(..., l, l)`` resolve their matrices, ``(...)``."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    kept = factor.diagonal(dim1=-2, dim2=-1).square() / diagonal
    # A failed factorisation leaves NaN, for which the comparison is False.
    return ((kept >= SMALLEST_PIVOT[matrix.dtype]) & (diagonal < torch.inf)).all(-1)


def unpack(packed: Tensor, size: int) -> Tensor:
    """Symmetric matrices ``(N, size, size)`` from packed lower triangles."""
    place = places_in_triangle(size, packed.device).flatten()
    return packed.T[:, place].unflatten(-1, (size, size))


def places_in_triangle(size: int, device: torch.device) -> Tensor:
    """Where a lower triangle, row by row, has each entry of a symmetric matrix ``(size, size)``."""
    column = torch.arange(size, device=device)
    # A row begins behind as many entries as the numbers of all rows before it add up to.
    begin = column.cumsum(0)
    place = torch.maximum(begin.unsqueeze(-1), begin)
    return place + torch.minimum(column.unsqueeze(-1), column)


def _unrolled_solve(packed: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Solves by the factorisation ``L D L'`` with unit lower ``L``, written out."""
    size = len(vector)
    x = list(vector)
    unit: list[list[Tensor]] = []
    pivot: list[Tensor] = []
    for i in range(size):
        row = list(packed[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2])
        unit.append([])
        for j in range(i):
            for k in range(j):
                row[j] = torch.addcmul(row[j], row[k], unit[j][k], value=-1.0)
            unit[i].append(row[j] / pivot[j])
            row[i] = torch.addcmul(row[i], row[j], unit[i][j], value=-1.0)
            x[i] = torch.addcmul(x[i], unit[i][j], x[j], value=-1.0)
        pivot.append(row[i])
    resolved = pivot[0] > 0
    for i in range(1, size):
        diagonal = packed[i * (i + 3) // 2]
        resolved = resolved & (pivot[i] >= SMALLEST_PIVOT[packed.dtype] * diagonal)
    for i in reversed(range(size)):
        x[i] = x[i] / pivot[i]
        for k in range(i + 1, size):
            x[i] = torch.addcmul(x[i], unit[k][i], x[k], value=-1.0)
    return torch.stack(x), resolved
