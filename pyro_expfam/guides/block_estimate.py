"""What a guide has learnt of a block."""

from __future__ import annotations

from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.observations import check_observations
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import (
    ImportanceEvidence,
    evidence_at_root,
    integrate_evidence,
    resample_latents,
    sample_evidence,
)
from pyro_expfam.evidence.row_evidence import check_order
from pyro_expfam.guides.block_sites import BlockSites


class _Guide(Protocol):
    """What of a guide it takes to say what it has learnt."""

    solver: Solver

    def latent_distribution(
        self, problem: LatentProblem, solution: Solution
    ) -> dist.TorchDistribution: ...

    def _upstream_medians(self) -> dict[str, Tensor]: ...


class BlockEstimate:
    """What a guide has learnt of one block: its loading and intercept, and latents of any rows."""

    def __init__(self, guide: _Guide, sites: BlockSites) -> None:
        self._guide, self._sites, self._block = guide, sites, sites.block

    @property
    def loading(self) -> Tensor:
        """Point estimate of the loading, ``(d, l)``."""
        return self._estimate("loading")

    @property
    def intercept(self) -> Tensor:
        """Point estimate of the intercept, ``(d,)``."""
        return self._estimate("intercept")

    @property
    def latent_precision(self) -> Tensor:
        """The precision of the latents, or its point estimate."""
        return self._estimate("latent_precision")

    def latents(self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None) -> Tensor:
        """Latents ``(N, l)`` of rows seen in training or new, as the guide's own method."""
        return self.solution(y, offset, mask, weights).value

    def solution(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> Solution:
        """The latents of rows, with their convergence."""
        return self._solved(y, offset, mask, weights)[1]

    @torch.no_grad()
    def posterior(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> dist.TorchDistribution:
        """The guide's distribution over the latents of rows, batch ``(N,)``, event ``(l,)``."""
        return self._guide.latent_distribution(*self._solved(y, offset, mask, weights))

    @torch.no_grad()
    def log_evidence(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None, order: int = 1
    ) -> Tensor:
        """The log evidence of rows, ``(N,)``, as the guide's own method."""
        check_order(order)
        problem, solution = self._solved(y, offset, mask, weights)
        return evidence_at_root(problem, solution.value, order)

    def importance_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_draws: int = 1000,
    ) -> ImportanceEvidence:
        """The same by importance sampling, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights)
        return sample_evidence(problem, solution.value, num_draws)

    def quadrature_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_nodes: int = 21,
    ) -> Tensor:
        """The same by quadrature, ``(N,)``, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights)
        return integrate_evidence(problem, solution.value, num_nodes)

    def importance_latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_samples: int = 100,
        num_draws: int = 1000,
    ) -> Tensor:
        """Latents ``(num_samples, N, l)`` by importance resampling, as the guide's own method."""
        problem, solution = self._solved(y, offset, mask, weights)
        return resample_latents(problem, solution.value, num_samples, num_draws)

    @torch.no_grad()
    def _solved(self, y: Any, *entries: Any) -> tuple[LatentProblem, Solution]:
        problem = self._problem(y, *entries)
        return problem, solve(problem, self._guide.solver)

    def _problem(self, y: Any, *entries: Any) -> LatentProblem:
        W = self.loading
        observed = check_observations(self._block.family, y, self._block.num_features, W, *entries)
        return self._block.latent_problem(observed, W, self.intercept, self.latent_precision)

    @torch.no_grad()
    def _estimate(self, attribute: str) -> Tensor:
        site = self._sites.site_name(attribute)
        medians = self._guide._upstream_medians()
        value = medians[site] if site in medians else getattr(self._block, attribute)
        return value.detach()
