"""The normal prior of the latents of a problem, and its derivatives."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FIELDS = ("precision", "loc", "precision_factor")
"""The names of the fields of a problem that are numbers of the prior."""


@dataclass(frozen=True, eq=False)
class NormalPrior:
    r"""The prior :math:`N(m, (\lambda F F^\top)^{-1})` of the latents of every row.

    Attributes:
        precision: the number :math:`\lambda`, ``(...)``.
        loc: the mean ``m``, broadcastable to ``(..., N, l)``, or None for zero.
        precision_factor: the lower triangular matrix ``F``, ``(..., l, l)``, or None for the
            identity.
        latent_dim: the number of latents ``l`` per row.
    """

    precision: Tensor
    loc: Tensor | None
    precision_factor: Tensor | None
    latent_dim: int

    def centred(self, z: Tensor) -> Tensor:
        """Latents ``(..., N, l)`` less their prior mean."""
        return z if self.loc is None else z - self.loc

    def objective(self, z: Tensor) -> Tensor:
        """Minus the log prior density of latents, up to terms free of ``z``, ``(..., N)``."""
        return 0.5 * self.precision[..., None] * self.square(z)

    def square(self, z: Tensor) -> Tensor:
        r"""The squared lengths :math:`\|F^\top (z - m)\|^2`, ``(..., N)``."""
        x = self.centred(z)
        if self.precision_factor is not None:
            x = x @ self.precision_factor
        return x.square().sum(-1)

    def score(self, z: Tensor) -> Tensor:
        """Minus the gradient of :meth:`objective`, ``(..., N, l)``."""
        return -self.times(self.centred(z))

    def times(self, vectors: Tensor) -> Tensor:
        """The products of the precision matrix with vectors ``(..., N, l)``."""
        if self.precision_factor is not None:
            vectors = vectors @ self.precision_factor @ self.precision_factor.mT
        return self.precision[..., None, None] * vectors

    def root_times(self, vectors: Tensor) -> Tensor:
        r"""The products of :math:`\sqrt\lambda F` with vectors ``(..., N, l)``."""
        if self.precision_factor is not None:
            vectors = vectors @ self.precision_factor.mT
        return self.precision.sqrt()[..., None, None] * vectors

    def diagonal(self) -> Tensor:
        """The diagonal of the precision matrix, ``(..., 1, l or 1)``."""
        precision = self.precision[..., None, None]
        if self.precision_factor is None:
            return precision
        return precision * self.precision_factor.square().sum(-1).unsqueeze(-2)

    def smallest(self) -> Tensor:
        """The smallest eigenvalue of the precision matrix, ``(...)``."""
        if self.precision_factor is None:
            return self.precision
        return self.precision * torch.linalg.svdvals(self.precision_factor)[..., -1].square()

    def information(self) -> Tensor:
        """The precision matrix, ``(..., 1, l, l)``."""
        if self.precision_factor is None:
            like = self.precision
            matrix = torch.eye(self.latent_dim, dtype=like.dtype, device=like.device)
        else:
            matrix = (self.precision_factor @ self.precision_factor.mT).unsqueeze(-3)
        return self.precision[..., None, None, None] * matrix

    @cached_property
    def log_det(self) -> Tensor:
        """The log determinant of the precision matrix, ``(...)``."""
        of_precision = self.latent_dim * self.precision.log()
        if self.precision_factor is None:
            return of_precision
        return of_precision + 2 * self.precision_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def linear_part(self) -> Tensor | None:
        r"""The linear part :math:`\lambda F F^\top m` of the score, or None for zero.

        It broadcasts to ``(..., N, l)``.
        """
        if self.loc is None:
            return None
        return self.times(self.loc)

    def score_gradients(self, z: Tensor, u: Tensor, needed: Set[str]) -> dict[str, Tensor]:
        r"""Gradients of the prior's fields through the products of :meth:`score` and ``u``.

        Args:
            z: latents, ``(..., N, l)``.
            u: what the scores of rows are multiplied with, ``(..., N, l)``.
            needed: the names of fields; others may be left out.
        """
        x = self.centred(z)
        if self.precision_factor is None:
            found = {"precision": -(u * x).sum((-2, -1))}
            if "loc" in needed:
                found["loc"] = self.precision[..., None, None] * u
            return found
        factor, precision = self.precision_factor, self.precision[..., None, None]
        through_u, through_x = u @ factor, x @ factor
        # The gradient of the matrix P is -u x', and P is proportional to F F'.
        to_factor = -(x.mT @ through_u + u.mT @ through_x)
        return {
            "precision": -(through_u * through_x).sum((-2, -1)),
            "loc": precision * through_u @ factor.mT,
            "precision_factor": precision * to_factor.tril(),
        }

    def log_density_gradients(self, z: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of the prior's fields through its log densities at held latents.

        Args:
            z: latents, ``(..., N, l)``.
            grad: the gradient of the log densities, ``(..., N)``.
        """
        of_prior = self.latent_dim / self.precision[..., None] - self.square(z)
        found = {"precision": 0.5 * (grad * of_prior).sum(-1)}
        by_entry = grad.unsqueeze(-1)
        if self.loc is not None:
            found["loc"] = -by_entry * self.score(z)
        if self.precision_factor is not None:
            x, factor = self.centred(z), self.precision_factor
            of_square = self.precision[..., None, None] * (by_entry * x).mT @ (x @ factor)
            inverse = torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).reciprocal())
            found["precision_factor"] = grad.sum(-1)[..., None, None] * inverse - of_square.tril()
        return found

    def information_gradients(self, matrix: Tensor, needed: Set[str]) -> dict[str, Tensor]:
        """Gradients of the prior's fields through the trace of the information times matrices.

        Args:
            matrix: the sum of symmetric matrices over rows, ``(..., l, l)``.
            needed: the names of fields; others may be left out.
        """
        del needed
        if self.precision_factor is None:
            return {"precision": matrix.diagonal(dim1=-2, dim2=-1).sum(-1)}
        through = matrix @ self.precision_factor
        return {
            "precision": (through * self.precision_factor).sum((-2, -1)),
            "precision_factor": 2 * self.precision[..., None, None] * through.tril(),
        }
