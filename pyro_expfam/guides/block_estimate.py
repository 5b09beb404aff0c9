"""What a guide has learnt of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.linear_map import LinearMap
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.observations import check_observations, covariates_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.sparse_rows import dense_tiles, is_sparse
from pyro_expfam.deq.uncompiled import uncompiled
from pyro_expfam.evidence import (
    ImportanceEvidence,
    evidence_at_root,
    integrate_evidence,
    resample_latents,
    sample_evidence,
)
from pyro_expfam.evidence.adaptive import Nodes
from pyro_expfam.evidence.row_evidence import check_order
from pyro_expfam.families import Family
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.laplace_posterior import joined
from pyro_expfam.guides.no_rows import has_no_rows
from pyro_expfam.guides.rows_of_process import row_in_place_of_none
from pyro_expfam.models.latent_prior import LatentPrior


class _Guide(Protocol):
    """What a :class:`BlockEstimate` needs of a guide."""

    solver: Solver

    def latent_distribution(
        self, problem: LatentProblem, solution: Solution
    ) -> dist.TorchDistribution: ...

    def live_medians(self) -> dict[str, Tensor]: ...

    def check_columns(self, site: str, y: Any) -> None: ...

    def check_covariates(self, site: str, covariates: Any) -> None: ...


class BlockEstimate:
    """What a guide has learnt of one block: its loading and intercept, and latents of any rows.

    ``loading``, ``intercept`` and ``latent_precision`` are read without gradients. ``latents``,
    ``solution``, ``posterior`` and ``log_evidence`` are differentiable in the parameters of guide
    and model, and in offset, weights and observations. So what is built on them trains the guide
    too. :func:`torch.no_grad` around a call leaves the gradients out.
    """

    def __init__(self, guide: _Guide, sites: BlockSites) -> None:
        self._guide, self._sites, self._block = guide, sites, sites.block

    @property
    def loading(self) -> Tensor:
        """Point estimate of the loading, ``(d, l)``; of a convolution, its matrix.

        It leaves out the ones of a row effect.

        Raises:
            TypeError: if it is a convolution of so many latents that its matrix is not formed.
        """
        if self._block.row_effect is not None:
            return self._estimate("loading")
        return self.linear_map.loading

    @property
    def linear_map(self) -> LinearMap:
        """The linear map of latents to linear predictors, by the point estimate of its numbers."""
        return self._block.map_of(self._estimate("loading"))

    @property
    def kernel(self) -> Tensor:
        """Point estimate of the kernel of a convolution, in the shape of PyTorch's weight.

        Raises:
            ValueError: if the loading is dense.
        """
        if self._block.linear_map is None:
            raise ValueError("kernel wants a block with a linear_map, got a dense loading")
        return self._estimate("loading")

    @property
    def intercept(self) -> Tensor:
        """Point estimate of the intercept, ``(d,)``."""
        return self._estimate("intercept")

    @property
    def covariate_coefficients(self) -> Tensor:
        """Point estimate of the coefficients of covariates, ``(d, p)``.

        Raises:
            ValueError: if the block has no covariates.
        """
        if not self._block.num_covariates:
            raise ValueError("covariate_coefficients wants a block with num_covariates, got 0")
        return self._estimate("coefficients")

    @property
    def latent_precision(self) -> Tensor:
        """The precision of the latents, or its point estimate."""
        return self._estimate("latent_precision")

    @uncompiled
    def latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Tensor:
        """Latents ``(N, l)`` of rows seen in training or new, as the guide's own method."""
        if has_no_rows(y):
            # As a process of several may have none.
            row = row_in_place_of_none(self._block, y, offset, mask, weights, covariates)
            return self.latents(*row)[:0]
        if is_sparse(y):
            return torch.cat(self._by_tile(self.latents, y, offset, mask, weights, covariates))
        return self.solution(y, offset, mask, weights, covariates).value

    @uncompiled
    def solution(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Solution:
        """The latents of rows, with their convergence."""
        return self._solved(y, offset, mask, weights, covariates)[1]

    @uncompiled
    def posterior(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> dist.TorchDistribution:
        """The guide's distribution over the latents of rows, batch ``(N,)``, event ``(l,)``."""
        if is_sparse(y):
            return joined(self._by_tile(self.posterior, y, offset, mask, weights, covariates))
        return self._guide.latent_distribution(*self._solved(y, offset, mask, weights, covariates))

    @uncompiled
    def log_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        order: int = 1,
        nodes: Nodes | None = None,
    ) -> Tensor:
        """The log evidence of rows, ``(N,)``, as the guide's own method."""
        check_order(order, nodes)
        of_rows = partial(self.log_evidence, order=order, nodes=nodes)
        if has_no_rows(y):
            row = row_in_place_of_none(self._block, y, offset, mask, weights, covariates)
            return of_rows(*row)[:0]
        if is_sparse(y):
            return torch.cat(self._by_tile(of_rows, y, offset, mask, weights, covariates))
        problem, solution = self._solved(y, offset, mask, weights, covariates)
        return evidence_at_root(problem, solution.value, order, nodes)

    @torch.no_grad()
    def importance_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_draws: int = 1000,
    ) -> ImportanceEvidence:
        """The log evidence by importance sampling, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights, covariates)
        return sample_evidence(problem, solution.value, num_draws)

    @torch.no_grad()
    def quadrature_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_nodes: int = 31,
    ) -> Tensor:
        """The log evidence by quadrature, ``(N,)``, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights, covariates)
        return integrate_evidence(problem, solution.value, num_nodes)

    @torch.no_grad()
    def importance_latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_samples: int = 100,
        num_draws: int = 1000,
    ) -> Tensor:
        """Latents ``(num_samples, N, l)`` by importance resampling, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights, covariates)
        return resample_latents(problem, solution.value, num_samples, num_draws)

    def _solved(self, y: Any, *entries: Any) -> tuple[LatentProblem, Solution]:
        problem = self._problem(y, *entries)
        return problem, solve(problem, self._guide.solver)

    def _problem(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> LatentProblem:
        block = self._block
        family = self._family()
        y, offset, mask, weights = in_order_of_names(family, y, offset, mask, weights)
        self._guide.check_columns(self._sites.labels, y)
        self._guide.check_covariates(self._sites.labels, covariates)
        W, b, *C = self._live(*block.coefficient_sites)
        observed = check_observations(
            family,
            y,
            block.num_features,
            W,
            offset,
            mask,
            weights,
            covariates,
            missing=block.missing,
            num_covariates=block.num_covariates,
        )
        prior = self._owner()._prior(W)
        part = covariates_of(observed, C[0]) if C else None
        problem = block.latent_problem(observed, W, b, prior, family, part)
        if prior.is_normal:
            return problem
        return replace(problem, term=RowTerm(prior.log_ratio, problem.num_rows))

    @torch.no_grad()
    def _by_tile(
        self,
        function: Callable[..., Any],
        y: Any,
        offset: Any,
        mask: Any,
        weights: Any,
        covariates: Any,
    ) -> list[Any]:
        """A function of the rows of a sparse table, of which a tile at a time is made dense."""
        block = self._block
        like = self._estimate("intercept")
        self._guide.check_covariates(self._sites.labels, covariates)
        x = as_covariates(covariates, block.num_covariates, y.shape[0], like)
        entries = (offset, mask, weights, x)
        tiles = dense_tiles(block.family, y, block.num_features, like, *entries)
        return [function(*tile) for tile in tiles]

    def _family(self) -> Family:
        """The law of the observations, with learnt parameters at their medians."""
        names = self._block._learnt_of_family
        values = self._live(*(f"family_{name}" for name in names)) if names else []
        return self._block.family_at(dict(zip(names, values, strict=True)))

    def _owner(self) -> BlockEstimate:
        """What has been learnt of the block that has the latents."""
        sites = self._sites
        if sites.owner is not None:
            return BlockEstimate(self._guide, sites.owner)
        if not sites.has_latents:
            raise ValueError(
                f"block {sites.name!r} has no latents of its own, and takes a function of the "
                "latents of other blocks: ask for the block that has them"
            )
        return self

    def _prior(self, like: Tensor) -> LatentPrior:
        """The prior of the latents, about zero where the block takes its means from the model."""
        block = self._block
        name = "latent_scale" if block._has_latent_scale else "latent_precision"
        (value,) = self._live(name)
        return block.latent_prior(value, None, like)

    @torch.no_grad()
    def _estimate(self, attribute: str) -> Tensor:
        (value,) = self._live(attribute)
        return value.detach()

    def _live(self, *attributes: str) -> list[Tensor]:
        """The values of the block's attributes, differentiable in the parameters behind them."""
        medians = self._guide.live_medians()
        sites = {name: self._sites.site_name(name) for name in attributes}
        return [
            medians[site] if site in medians else getattr(self._block, name)
            for name, site in sites.items()
        ]
