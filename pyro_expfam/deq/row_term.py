"""A part of the log posterior of latents that is any differentiable function of a row's latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""The log density of every row ``(..., N)``, given the latents ``(..., N, l)`` of all rows."""


class TermDerivatives(NamedTuple):
    """A term and its derivatives in the latents.

    Attributes:
        value: the log density of each row, ``(..., N)``.
        score: its gradient, ``(..., N, l)``.
        information: minus its second derivative, ``(..., N, l, l)``, which may be indefinite.
    """

    value: Tensor
    score: Tensor
    information: Tensor


class RowTerm:
    """A log density of latents, whose derivatives come from autograd.

    The log density of a row depends on the latents of this row alone. The gradient of the sum over
    rows then is the gradient of every row. The second derivatives take one further backward pass
    per latent.

    Args:
        log_density: the log density of every row of the table.
        num_rows: rows ``N`` of the table.
        index: the numbers of the rows that are asked for, ``(n,)``, each once; None for all. The
            log density is still evaluated at all rows, with latents zero elsewhere.
    """

    def __init__(self, log_density: LogDensity, num_rows: int, index: Tensor | None = None) -> None:
        self._log_density = log_density
        self._num_rows, self._index = num_rows, index

    def rows(self, index: slice | Tensor) -> RowTerm:
        """The term of some rows."""
        known = torch.arange(self._num_rows) if self._index is None else self._index
        return RowTerm(self._log_density, self._num_rows, known[index])

    def __call__(self, z: Tensor) -> Tensor:
        """The log density of every row, in the dtype of ``z``, ``(..., N)``."""
        if self._index is None:
            return self._log_density(z).to(z.dtype)
        index = self._index.to(z.device)
        whole = z.new_zeros(*z.shape[:-2], self._num_rows, z.shape[-1])
        whole = whole.index_copy(whole.dim() - 2, index, z)
        return self._log_density(whole).to(z.dtype)[..., index]

    def derivatives(self, z: Tensor) -> TermDerivatives:
        """Value, gradient and second derivatives, differentiable where gradients are enabled."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = _variable(z)
            value = self(at)
            score = _gradient(value, at)
            information = -_jacobian(score, at, keep)
        if keep:
            return TermDerivatives(value, score, information)
        return TermDerivatives(value.detach(), score.detach(), information.detach())

    def information(self, z: Tensor) -> Tensor:
        """Minus the second derivative of each row, ``(..., N, l, l)``."""
        return self.derivatives(z).information

    def third(self, z: Tensor) -> Tensor:
        """Minus the third derivative of each row, ``(..., N, l, l, l)``."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = _variable(z)
            found = _jacobian(self.derivatives(at).information.flatten(-2), at, keep)
        found = found.unflatten(-2, (z.shape[-1], z.shape[-1]))
        return found if keep else found.detach()

    def fourth_with(self, z: Tensor, matrix: Tensor) -> Tensor:
        """Minus the fourth derivative contracted with matrices, ``(..., N, l, l)``."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = _variable(z)
            trace = (self.derivatives(at).information * matrix).sum((-2, -1))
            found = _jacobian(_gradient(trace, at), at, keep)
        return found if keep else found.detach()


def _variable(z: Tensor) -> Tensor:
    """Latents that derivatives can be taken in, which keep what they depend on."""
    return z.view_as(z) if z.requires_grad else z.detach().requires_grad_()


def _gradient(values: Tensor, at: Tensor) -> Tensor:
    """The gradient of every row's value ``(..., N)``."""
    if not values.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(
        values.sum(), at, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def _jacobian(vectors: Tensor, at: Tensor, keep: bool) -> Tensor:
    """The derivatives of the entries of every row's vector, ``(..., N, k, l)``."""
    columns = []
    for k in range(vectors.shape[-1]):
        entry = vectors[..., k].sum()
        if not entry.requires_grad:
            columns.append(torch.zeros_like(at))
            continue
        (found,) = torch.autograd.grad(
            entry,
            at,
            create_graph=keep,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        columns.append(found)
    return torch.stack(columns, -2)
