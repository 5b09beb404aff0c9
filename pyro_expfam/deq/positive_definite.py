"""Factorising many small information matrices at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_expfam.deq.packed import UNROLLED_DIM, resolves
from pyro_expfam.deq.transformed import is_traced


def cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors of ``(..., l, l)``, and which resolve their matrix, ``(...)``.

    The flag is False for a matrix that is not finite, or that rounding in its dtype could have made
    positive definite; its factor is meaningless.
    """
    if matrix.shape[-1] <= UNROLLED_DIM:
        factor = _unrolled_cholesky(matrix)
    else:
        factor, _ = torch.linalg.cholesky_ex(matrix)
    return factor, resolves(factor, matrix)


def _unrolled_cholesky(matrix: Tensor) -> Tensor:
    size = matrix.shape[-1]
    zero = torch.zeros_like(matrix[..., 0, 0])
    entry = [[zero] * size for _ in range(size)]
    for j in range(size):
        pivot = matrix[..., j, j]
        for k in range(j):
            pivot = pivot - entry[j][k].square()
        entry[j][j] = pivot.sqrt()
        for i in range(j + 1, size):
            value = matrix[..., i, j]
            for k in range(j):
                value = value - entry[i][k] * entry[j][k]
            entry[i][j] = value / entry[j][j]
    return torch.stack([torch.stack(row, -1) for row in entry], -2)


def cholesky_solve(factor: Tensor, vector: Tensor) -> Tensor:
    """Solutions ``(..., l)`` of ``L L' x = vector`` for lower factors ``L`` ``(..., l, l)``."""
    if factor.shape[-1] <= UNROLLED_DIM:
        return solve_upper(factor, solve_lower(factor, vector))
    return torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)


def solve_lower(factor: Tensor, vector: Tensor) -> Tensor:
    """Solutions ``(..., l)`` of ``L x = vector``."""
    size = factor.shape[-1]
    if size > UNROLLED_DIM:
        solution = torch.linalg.solve_triangular(factor, vector.unsqueeze(-1), upper=False)
        return solution.squeeze(-1)
    x: list[Tensor] = []
    for i in range(size):
        value = vector[..., i]
        for k in range(i):
            value = value - factor[..., i, k] * x[k]
        x.append(value / factor[..., i, i])
    return torch.stack(x, -1)


def solve_upper(factor: Tensor, vector: Tensor) -> Tensor:
    """Solutions ``(..., l)`` of ``L' x = vector``."""
    size = factor.shape[-1]
    if size > UNROLLED_DIM:
        solution = torch.linalg.solve_triangular(factor.mT, vector.unsqueeze(-1), upper=True)
        return solution.squeeze(-1)
    x: list[Tensor] = [vector[..., 0]] * size
    for i in reversed(range(size)):
        value = vector[..., i]
        for k in range(i + 1, size):
            value = value - factor[..., k, i] * x[k]
        x[i] = value / factor[..., i, i]
    return torch.stack(x, -1)


def inverse_lower(factor: Tensor) -> Tensor:
    """Inverses of lower factors ``(..., l, l)``."""
    size = factor.shape[-1]
    eye = torch.eye(size, dtype=factor.dtype, device=factor.device)
    if size > UNROLLED_DIM:
        return torch.linalg.solve_triangular(factor, eye, upper=False)
    columns = [solve_lower(factor, eye[k].expand(factor.shape[:-1])) for k in range(size)]
    return torch.stack(columns, -1)


def robust_cholesky(
    information: Tensor, in_double: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Factors of ``(N, l, l)`` information matrices, again in float64 where float32 fails.

    ``in_double(index)`` forms the matrices of the rows selected by a boolean index again, in
    float64. Returns the factors in the dtype of ``information``, and which of them exist, ``(N,)``.
    """
    factor, resolved = cholesky(information)
    # A traced program has to look for failures in each of its calls.
    if information.dtype == torch.float64 or (not is_traced() and bool(resolved.all())):
        return factor, resolved
    failed = ~resolved
    again, resolved_again = cholesky(in_double(failed))
    factor, resolved = factor.clone(), resolved.clone()
    factor[failed] = again.to(factor.dtype)
    resolved[failed] = resolved_again
    return factor, resolved
