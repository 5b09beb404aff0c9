"""Sums over the entries of some rows at several starts: of rows, and of columns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_expfam.deq.row_sums import Wanted
from pyro_expfam.joint.entry_terms import EntryTerms, Scratch, entry_terms
from pyro_expfam.joint.sums_of_tiles import SumsOfTiles
from pyro_expfam.joint.symmetric import products_of_pairs, symmetric
from pyro_expfam.joint.table import TableRows


class OfRows(NamedTuple):
    """Sums over the entries of every row, at every start.

    Attributes:
        loss: the sum of the losses of all rows, ``(S,)``, in double precision.
        scores: residuals times the loading, ``(S, n, l)``.
        information: of the latents, with the prior's, ``(S, n, l, l)``.
    """

    loss: Tensor
    scores: Tensor
    information: Tensor


class OfColumns(NamedTuple):
    """Sums over the rows for every column, at every start, with ``k = l + 1 + p``.

    Attributes:
        score: residuals times the design, ``(S, k, d)``.
        packed: the information, without the prior, as lower triangles ``(S, k (k + 1) / 2, d)``.
    """

    score: Tensor
    packed: Tensor


class SumsOfStarts(Protocol):
    """Computes sums at the coefficients of several starts."""

    def of_rows(self, z: Tensor, rows: TableRows) -> OfRows:
        """The sums of rows at latents ``(S, n, l)``."""

    def of_columns(self, z: Tensor, rows: TableRows) -> OfColumns:
        """The sums of columns at latents ``(S, n, l)``."""


class SumsTogether:
    """Sums of all starts at once, by PyTorch: calls cost more than arithmetic on a small table.

    Args:
        coefficients: loading, intercept and coefficients of covariates, ``(S, d, l + 1 + p)``.
        latent_dim: the number of latents ``l``.
        precision: the precision of the latents.
        scratch: memory for the entries.
    """

    def __init__(
        self, coefficients: Tensor, latent_dim: int, precision: Tensor, scratch: Scratch
    ) -> None:
        self._coefficients, self._precision, self._scratch = coefficients, precision, scratch
        self._loading = coefficients[..., :latent_dim]
        self._products = products_of_pairs(self._loading)

    def of_rows(self, z: Tensor, rows: TableRows) -> OfRows:
        """As :meth:`SumsOfStarts.of_rows`."""
        terms = self._terms(_design(z, rows), rows)
        information = symmetric(terms.variance @ self._products, self._precision)
        loss = terms.losses.sum(-1, dtype=torch.float64)
        return OfRows(loss, terms.residual @ self._loading, information)

    def of_columns(self, z: Tensor, rows: TableRows) -> OfColumns:
        """As :meth:`SumsOfStarts.of_columns`."""
        design = _design(z, rows)
        terms = self._terms(design, rows)
        packed = products_of_pairs(design).mT @ terms.variance
        return OfColumns(design.mT @ terms.residual, packed)

    def _terms(self, design: Tensor, rows: TableRows) -> EntryTerms:
        shape = (*design.shape[:-1], self._coefficients.shape[1])
        matrices = self._scratch.matrices(shape, design)
        torch.matmul(design, self._coefficients.mT, out=matrices[0])
        if rows.offset is not None:
            matrices[0].add_(rows.offset)
        entries = rows.family.entries(rows.y)
        return entry_terms(rows.family, entries, entries.statistic, rows.weights, matrices)


class SumsInTurn:
    """Sums of one start after the other, by a kernel.

    Args:
        coefficients: loading, intercept and coefficients of covariates, ``(S, d, l + 1 + p)``.
        latent_dim: the number of latents ``l``.
        precision: the precision of the latents.
        num_rows: the rows of the table.
    """

    def __init__(
        self, coefficients: Tensor, latent_dim: int, precision: Tensor, num_rows: int
    ) -> None:
        self._precision = precision
        self._each = [
            (own, SumsOfTiles.by_kernel(own, latent_dim, precision, num_rows))
            for own in coefficients
        ]

    def of_rows(self, z: Tensor, rows: TableRows) -> OfRows:
        """As :meth:`SumsOfStarts.of_rows`."""
        scores, information = torch.empty_like(z), z.new_empty(*z.shape, z.shape[-1])
        wanted = [Wanted(x, m, False) for x, m in zip(scores, information, strict=True)]
        losses = [
            sums(rows.problem(own, self._precision), at, into).loss
            for (own, sums), at, into in zip(self._each, z, wanted, strict=True)
        ]
        return OfRows(torch.stack(losses), scores, information)

    def of_columns(self, z: Tensor, rows: TableRows) -> OfColumns:
        """As :meth:`SumsOfStarts.of_columns`."""
        found = [
            sums(rows.problem(own, self._precision), at, Wanted(None, None, True))
            for (own, sums), at in zip(self._each, z, strict=True)
        ]
        return OfColumns(*(torch.stack(x) for x in zip(*(x[1:] for x in found), strict=True)))


def _design(z: Tensor, rows: TableRows) -> Tensor:
    """What coefficients multiply in some rows, ``(S, n, l + 1 + p)``."""
    return torch.cat([z, rows.known().expand(len(z), -1, -1)], -1)
