"""Rows in the layout of the iterations, which see the observations only through ``T(y) W``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Entries
from pyro_expfam.families.kinds import At, take

TILE_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Entries of a tile of rows x features, roughly. On a CPU its temporaries stay in the cache."""

SMALLEST_TILE = 16
"""The fewest rows of a tile, unless a single row is large."""


def row_tiles(problem: LatentProblem) -> Iterator[slice]:
    """Slices of the rows such that a tile of rows x features stays in fast memory."""
    return tiles(problem.num_rows, problem.num_features, problem.map.device)


def tiles(num_rows: int, row_entries: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows such that a tile of them, of ``row_entries`` each, stays in fast memory."""
    size = _tile_size(num_rows, row_entries, device)
    for begin in range(0, num_rows, size):
        yield slice(begin, min(begin + size, num_rows))


def _tile_size(num_rows: int, row_entries: int, device: torch.device) -> int:
    entries = TILE_ENTRIES.get(device.type, TILE_ENTRIES["cpu"])
    num_tiles = max(1, round(num_rows * row_entries / entries))
    fewest = min(SMALLEST_TILE, math.ceil(SMALLEST_TILE * entries / row_entries))
    return max(fewest, math.ceil(num_rows / num_tiles))


@dataclass(frozen=True, eq=False)
class Design:
    r"""Arrays made from loading, intercept and precision, which all rows share.

    Attributes:
        loading: the loading transposed, ``(l, d)``.
        loading_products: products of pairs of columns of the loading, ``(l (l + 1) / 2, d)``.
        intercept: ``(d,)``.
        precision: precision of the latents, ``()``.
        prior_information: the packed information of the prior, ``(l (l + 1) / 2, 1)``.
        largest_rate: the most by which a log variance changes along a unit vector of latents,
            at most :math:`M \max_i \|W_i\|`.
        scratch: memory for two matrices of a tile of rows x features, ``(2, entries)``, which
            every evaluation overwrites.
    """

    loading: Tensor
    loading_products: Tensor
    intercept: Tensor
    precision: Tensor
    prior_information: Tensor
    largest_rate: float
    scratch: Tensor

    @classmethod
    def of(cls, problem: LatentProblem) -> Design:
        """The design of a problem without batch dimensions."""
        loading = problem.map.loading.T.contiguous()
        # No tile is larger than the first.
        entries = next(row_tiles(problem)).stop * loading.shape[1]
        row, column = torch.tril_indices(len(loading), len(loading), device=loading.device)
        return cls(
            loading,
            loading[row] * loading[column],
            problem.b,
            problem.precision,
            torch.where(row == column, problem.precision, 0.0).unsqueeze(-1),
            _largest_rate(problem),
            loading.new_empty(2, entries),
        )


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Rows of a table; the linear part of their losses is summarised by ``T W``.

    Rows come last here: latents are ``(l, N)``, and symmetric matrices are packed lower triangles
    ``(l (l + 1) / 2, N)``. Elementwise operations then run over contiguous rows, and products with
    the features take half as long as with rows first.

    Attributes:
        design: what is the same for all rows.
        entries: the observations as functions of their linear predictors.
        statistic_loading: ``T W`` with entry weights applied, and the linear part of the prior's
            score, ``(l, N)``.
        self_concordance: as the family has it.
        bounded_variance: as the family has it.
        coupled: where levels of categories are among the linear predictors, and how many a column
            has.
        offset: as in the problem, broadcasting to ``(N, d)``, or None.
        weights: as in the problem, broadcasting to ``(N, d)``, or None.
    """

    design: Design
    entries: Entries
    statistic_loading: Tensor
    offset: Tensor | None
    weights: Tensor | None
    self_concordance: float | None
    bounded_variance: bool
    coupled: tuple[tuple[At, int], ...] = ()

    @classmethod
    def of(cls, problem: LatentProblem, design: Design) -> RowBlock:
        """The rows of a problem without batch dimensions."""
        return cls(
            design,
            problem.entries,
            _statistic_loading(problem, design),
            problem.offset,
            problem.weights,
            problem.family.self_concordance,
            problem.family.bounded_variance,
            tuple(
                (kind.predictors, kind.family.levels_among(kind.num_predictors))
                for kind in problem.kinds
                if kind.family.is_coupled
            ),
        )

    def rows(self, keep: Tensor) -> RowBlock:
        """Some of the rows."""
        return replace(
            self,
            entries=self.entries.rows(keep),
            statistic_loading=self.statistic_loading[:, keep],
            offset=_keep(self.offset, keep),
            weights=_keep(self.weights, keep),
        )

    @property
    def alike(self) -> bool:
        """Whether rows with the same latents have the same mean and information."""
        entries = (self.offset, self.weights)
        return not self.entries.differs_by_row and all(x is None or len(x) == 1 for x in entries)

    def score(self, z: Tensor) -> Tensor:
        """The score of latents ``(l, N)``, in their shape."""
        return self._score(self._weighted(self.entries.mean(self._predictor(z))), z)

    def score_and_information(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The score of latents ``(l, N)``, and their packed information.

        For latents ``(l, 1)`` of rows that are alike, the information of one row is returned.
        """
        design = self.design
        eta = self._predictor(z)
        scratch = design.scratch[1, : eta.numel()].view_as(eta)
        mean, variance = self.entries.mean_and_variance_in_place(eta, scratch)
        mean = self._weighted(mean)
        variance = self._weighted(variance)
        for at, _ in self.coupled:
            variance[..., at] = mean[..., at]
        information = torch.addmm(design.prior_information, design.loading_products, variance.T)
        for at, levels in self.coupled:
            information = information - self._of_means(take(mean, at), at, levels)
        return self._score(mean, z), information

    def _of_means(self, weighted: Tensor, at: At, levels: int) -> Tensor:
        """The packed products of the means over the levels, from weighted probabilities."""
        by_column = weighted.unflatten(-1, (-1, levels))
        # The weight of a column is the sum of its levels' weighted probabilities.
        scale = by_column.sum(-1, keepdim=True).clamp(min=torch.finfo(weighted.dtype).tiny).rsqrt()
        loading = take(self.design.loading, at).unflatten(-1, (-1, levels))
        mean = torch.einsum("nck,lck->lnc", by_column * scale, loading)
        row, column = torch.tril_indices(len(mean), len(mean), device=mean.device)
        return (mean[row] * mean[column]).sum(-1)

    def change(self, direction: Tensor) -> Tensor:
        r"""The largest change of a log variance, :math:`M \max_i |(Wp)_i|`, ``(N,)``."""
        change = torch.mm(direction.T, self.design.loading, out=self._scratch(direction))
        return change.abs_().amax(-1).mul_(_certified(self.self_concordance))

    def _predictor(self, z: Tensor) -> Tensor:
        design = self.design
        eta = torch.addmm(design.intercept, z.T, design.loading, out=self._scratch(z))
        return eta if self.offset is None else eta.add_(self.offset)

    def _scratch(self, z: Tensor) -> Tensor:
        num_rows, num_features = z.shape[1], self.design.loading.shape[1]
        return self.design.scratch[0, : num_rows * num_features].view(num_rows, num_features)

    def _score(self, weighted_mean: Tensor, z: Tensor) -> Tensor:
        # Not fused: the subtracted term may have a single row, which broadcasts.
        score = self.statistic_loading - self.design.loading @ weighted_mean.T
        return score.addcmul_(z, self.design.precision, value=-1.0)

    def _weighted(self, entries: Tensor) -> Tensor:
        return entries if self.weights is None else entries * self.weights


def _largest_rate(problem: LatentProblem) -> float:
    self_concordance = problem.family.self_concordance
    if self_concordance is None:
        return math.inf
    return self_concordance * float(problem.map.largest_norm())


def _certified(self_concordance: float | None) -> float:
    assert self_concordance is not None, "steps without a certificate are taken by a line search"
    return self_concordance


def _statistic_loading(problem: LatentProblem, design: Design) -> Tensor:
    """The part of the score that is free of the latents, ``(l, N)``."""
    statistic, of_prior = problem.entries.statistic, problem.prior.linear_part()
    if problem.stored is not None:
        product = problem.stored.times(problem.map.loading).T
    elif statistic is None:
        product = design.loading.new_zeros(len(design.loading), problem.num_rows)
    else:
        product = design.loading @ problem.weighted(statistic).T
    return product if of_prior is None else product + of_prior.T


def _keep(entries: Tensor | None, keep: Tensor) -> Tensor | None:
    # A single row stands for all of them by broadcasting.
    return entries if entries is None or len(entries) == 1 else entries[keep]
