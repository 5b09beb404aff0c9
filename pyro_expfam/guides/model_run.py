"""Running a model so that the equilibrium layer finds the latents of its blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_expfam.deq import implicit
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.transformed import is_traced
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.latent_messenger import LatentMessenger, LatentPosterior
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.guides.upstream import UpstreamLatents
from pyro_expfam.models import ExpFamPCA, RowPlace
from pyro_expfam.runtime.handlers import computes_loss
from pyro_expfam.runtime.ownership import LOCK


class BlockRoot(NamedTuple):
    """The latents of a block at their root.

    Attributes:
        sites: the block, and the names of its sites.
        problem: the estimation problem of the latents.
        solution: the solution of the problem.
    """

    sites: BlockSites
    problem: LatentProblem
    solution: Solution

    @property
    def block(self) -> ExpFamPCA:
        """The block."""
        return self.sites.block


class ModelRun(UpstreamLatents):
    """The part of a guide that runs its model, and answers the latent sites of the blocks."""

    @abstractmethod
    def latent_distribution(
        self, problem: LatentProblem, solution: Solution
    ) -> dist.TorchDistribution:
        """The distribution over the latents of a problem, given its root."""

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents, given the arguments of the model.

        Returns:
            The values by site name.

        Raises:
            ValueError: if the model has no block, a block has no observations, or the user has
                put a parameter of another shape into Pyro's store.
            RuntimeError: if another guide has trained point parameters of the model since, and
                this is no training step.
        """
        self._see(*args, **kwargs)
        values = self.sample_globals(*args, **kwargs)
        if computes_loss():
            self._begin_training()
        else:
            self._refuse_moved_parameters()
        upstream = {**self._earlier_values, **values}
        # The next call may have other particles or another table.
        self._earlier_values = {}
        latents = self._answer_blocks(upstream, self._latent_distribution, args, kwargs)
        if isinstance(self.model, ExpFamPCA) and computes_loss():
            self._trained_guide()._trained_on = TrainingTable.of_step(*args, **kwargs)
        # Some guides make their parameters in their first run.
        self._claim()
        return {**values, **latents}

    def _latent_distribution(
        self, name: str, problem: LatentProblem, place: RowPlace | None
    ) -> dist.TorchDistribution:
        distinct = problem.distinct()
        # A traced program would keep the start of its first call.
        if not self.warm_start or is_traced():
            return self.latent_distribution(distinct, solve(distinct, self.solver))
        start = self._warm_start.start(name, distinct, place)
        solution = implicit.solve(distinct, self.solver, start)
        self._warm_start.remember(name, distinct, place, solution)
        return self.latent_distribution(distinct, solution)

    def _answer_blocks(
        self,
        values: dict[str, Tensor],
        latent_distribution: LatentPosterior,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Runs the model with its block latents answered, given all other latents."""
        messenger = LatentMessenger(
            self._latent_sites,
            latent_distribution,
            values,
            self._existing_plates(),
            self._see_columns,
        )
        return messenger.run(self._whole_model[0], *args, **kwargs)

    def _see_columns(self, site: str, y: Any) -> None:
        """Checks the columns of a table in a run, which may be a step of training."""
        self.check_columns(site, y)
        if computes_loss():
            self._trained_guide()._columns.remember_first(site, y)

    def check_columns(self, site: str, y: Any) -> None:
        """An error if a frame has other columns than the guide was trained on.

        Args:
            site: the name of the site of the block's latents.
            y: the observations of the block, as the user has passed them.

        Raises:
            ValueError: if the columns are others, or in another order.
        """
        self._trained_guide()._columns.check(site, y)

    # ---------------------------------------------------------- at the medians of all other latents

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of every latent, given the arguments of the model, by site name."""
        with LOCK:
            self._see(*args, **kwargs)
            roots = self.roots(*args, **kwargs)
            latents = {root.sites.latents: root.solution.value for root in roots}
            return {**self.global_medians(*args, **kwargs), **latents}

    def sample_stats(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Convergence of every row, given the arguments of the model.

        Returns:
            ``converged``, ``num_iter`` and ``residual``, each ``(N,)``; with the block's name
            before them, as in ``genes.converged``, where it has one.
        """
        return {
            root.sites.site_name(name): value
            for root in self.roots(*args, **kwargs)
            for name, value in self.row_stats(root).items()
        }

    def row_stats(self, root: BlockRoot) -> dict[str, Tensor]:
        """What the guide reports per row of a block, by name."""
        _, converged, num_iter, residual, _ = root.solution
        return {"converged": converged, "num_iter": num_iter, "residual": residual}

    @torch.no_grad()
    def roots(self, *args: Any, **kwargs: Any) -> list[BlockRoot]:
        """The roots of all blocks at the medians of all other latents."""
        found: list[BlockRoot] = []

        def root(
            name: str, problem: LatentProblem, place: RowPlace | None
        ) -> dist.TorchDistribution:
            del place
            found.append(BlockRoot(sites[name], problem, solve(problem, self.solver)))
            return dist.Delta(found[-1].solution.value, event_dim=1)

        self._see(*args, **kwargs)
        self._refuse_moved_parameters()
        sites = {sites.latents: sites for sites in self._sites.values()}
        with LOCK, poutine.block():
            self._answer_blocks(self._upstream_medians(*args, **kwargs), root, args, kwargs)
        return found

    def trained_root(self, root: BlockRoot) -> BlockRoot:
        """The root of a block under the coefficients that training has come to.

        These are the medians, unless the guide puts its medians elsewhere.
        """
        return root

    def unreliable_columns(self) -> Tensor | None:
        """Columns whose coefficients have a posterior too skew for a normal, booleans ``(d,)``.

        It is None unless the guide has a normal posterior of loading and intercept.
        """
        return None
