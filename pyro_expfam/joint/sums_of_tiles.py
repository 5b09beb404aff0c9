"""Sums over the entries of a tile at some coefficients: losses, scores and information."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from pyro_expfam.deq.backend import (
    activation_with_terms,
    joint_sums_of,
    law_terms_of,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_sums import JointSums, RowSums, Wanted
from pyro_expfam.deq.stored_entries import StoredEntries
from pyro_expfam.joint.entry_terms import EntryTerms, Scratch, entry_terms
from pyro_expfam.joint.symmetric import products_of_pairs, symmetric


class SumsOfTiles:
    """Computes the sums over the rows of a tile, for any tile of a table.

    Args:
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
        latent_dim: the number of latents ``l``.
        precision: the precision of the latents.
        num_rows: the rows of the table.
        kernel: computes the sums, or None for products of PyTorch.
    """

    def __init__(
        self,
        coefficients: Tensor,
        latent_dim: int,
        precision: Tensor,
        num_rows: int,
        kernel: JointSums | None,
    ) -> None:
        self._coefficients, self._precision, self._kernel = coefficients, precision, kernel
        self._loading = coefficients[:, :latent_dim].contiguous()
        self._scratch, self._num_rows = Scratch(), num_rows

    @classmethod
    def by_kernel(
        cls, coefficients: Tensor, latent_dim: int, precision: Tensor, num_rows: int
    ) -> Self:
        """Sums by the kernel where there is one that is the faster way."""
        kernel = joint_sums_of(coefficients, num_rows, latent_dim, precision)
        return cls(coefficients, latent_dim, precision, num_rows, kernel)

    def __call__(self, problem: LatentProblem, z: Tensor, wanted: Wanted) -> RowSums:
        """The sums at latents ``(n, l)`` of the rows of a tile."""
        design, activation = problem.design(z), activation_with_terms(problem.family)
        if self._kernel is None:
            terms = self._terms(problem, z)
            sums = self._by_products(design, terms, wanted)
        elif activation is None:
            terms = self._terms(problem, z)
            sums = self._kernel.of_terms(design, terms.residual, terms.variance, wanted)
            sums = sums._replace(loss=terms.losses.sum(dtype=torch.float64))
        else:
            statistic = problem.entries.statistic if problem.stored is None else None
            offset = problem.offset
            if problem.covariates is not None:
                offset = problem.covariates.offset
            sums = self._kernel.of_law(
                activation, design, statistic, problem.weights, offset, wanted
            )
        if problem.stored is None:
            return sums
        return self._with_stored(sums, problem, problem.stored, design, wanted)

    def _terms(self, problem: LatentProblem, z: Tensor) -> EntryTerms:
        """The terms of the entries of a tile; of a sparse table, without the statistics."""
        matrices = self._scratch.matrices(problem.y.shape, problem.y)
        problem.map.plus(problem.b, z, matrices[0])
        if problem.offset is not None:
            matrices[0].add_(problem.offset)
        by_laws = law_terms_of(problem, self._num_rows)
        if by_laws is not None:
            return EntryTerms(*by_laws.law_terms(problem, matrices))
        statistic = problem.entries.statistic if problem.stored is None else None
        return entry_terms(problem.family, problem.entries, statistic, problem.weights, matrices)

    def _by_products(self, design: Tensor, terms: EntryTerms, wanted: Wanted) -> RowSums:
        if wanted.scores is not None:
            torch.mm(terms.residual, self._loading, out=wanted.scores)
        if wanted.information is not None:
            packed = terms.variance @ products_of_pairs(self._loading)
            wanted.information.copy_(symmetric(packed, self._precision))
        # Features come last: products of a small with a large dimension are four times as fast in
        # this order.
        packed = design.new_empty(0, len(self._coefficients))
        if wanted.of_columns:
            packed = products_of_pairs(design).mT @ terms.variance
        loss = terms.losses.sum(dtype=torch.float64)
        return RowSums(loss, design.mT @ terms.residual, packed)

    def _with_stored(
        self,
        sums: RowSums,
        problem: LatentProblem,
        stored: StoredEntries,
        design: Tensor,
        wanted: Wanted,
    ) -> RowSums:
        """Sums with the part that the entries have which a sparse table stores."""
        eta = (design[stored.row] * self._coefficients[stored.column]).sum(-1)
        offset = problem.offset if problem.covariates is None else problem.covariates.offset
        if offset is not None:
            eta += stored.at(offset.expand(problem.y.shape))
        loss = sums.loss - (stored.statistic * eta).sum(dtype=torch.float64)
        if wanted.scores is not None:
            wanted.scores.add_(stored.times(self._loading))
        score = sums.score + stored.transposed_times(design, len(self._coefficients)).mT
        return sums._replace(loss=loss, score=score)
