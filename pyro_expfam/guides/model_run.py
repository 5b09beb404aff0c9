"""Running a model so that the equilibrium layer finds the latents of its blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_expfam.deq import implicit
from pyro_expfam.deq.likelihood_at_root import AtRoot, solve_with_likelihood
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.transformed import is_traced
from pyro_expfam.guides.block_run import answer_block, call_of_block
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.column_labels import covariate_key
from pyro_expfam.guides.errors import SeveralBlocksError, UnseenError
from pyro_expfam.guides.group_problem import GroupProblem, group_problem
from pyro_expfam.guides.group_root import (
    GroupRoot,
    find_group_roots,
    read_groups,
    solve_from_zero,
)
from pyro_expfam.guides.latent_messenger import Answers, GroupAnswer, LatentMessenger
from pyro_expfam.guides.marginals import Marginal, find_marginals
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.guides.upstream import UpstreamLatents
from pyro_expfam.models import ExpFamPCA, RowPlace
from pyro_expfam.runtime.handlers import computes_loss
from pyro_expfam.runtime.own_errors import own_errors
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.table_categories import Categories
from pyro_expfam.table_frames import as_pandas


class BlockRoot(NamedTuple):
    """The latents of a block at their root.

    Attributes:
        sites: the block, and the names of its sites.
        problem: the estimation problem of the latents, and of the latents of other blocks that
            belong together with them.
        solution: the solution of the problem.
        place: the place of the block's latents among all latents of the problem.
    """

    sites: BlockSites
    problem: LatentProblem
    solution: Solution
    place: slice = slice(None)

    @property
    def latents(self) -> Tensor:
        """The latents of the block, ``(..., N, l)``."""
        return self.solution.value[..., self.place]

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

    _latents_are_root = False
    """Whether the guide's latents are the root itself."""

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
        with LOCK, own_errors():
            self._see(*args, **kwargs)
            values = self.sample_globals(*args, **kwargs)
            if computes_loss():
                self._begin_training()
            else:
                self._refuse_moved_parameters()
            upstream = {**self._earlier_values, **values}
            # The next call may have other particles or another table.
            self._earlier_values.clear()
            with_likelihood = self._solve_with_likelihood if self._latents_are_root else None
            answers = Answers(self._solve, self.latent_distribution, with_likelihood)
            latents = self._answer_blocks(upstream, answers, args, kwargs)
            if isinstance(self.model, ExpFamPCA) and computes_loss():
                self._note_table(TrainingTable.of_step(*args, **kwargs))
            if self._makes_parameters_in_runs():
                self._claim()
            return {**values, **latents}

    def _note_table(self, table: TrainingTable) -> None:
        """Keeps the record of the table of a training step."""
        trained = self._trained_guide()
        known = trained._trained_on
        # A module looks at every attribute that it is given.
        if known is None or known.sums is not None or known.num_rows != table.num_rows:
            trained._trained_on = table

    def _solve(
        self,
        name: str,
        problem: LatentProblem,
        place: RowPlace | None,
        batch_shape: torch.Size,
    ) -> Solution:
        """The latents of a problem, from where they were last."""
        # A traced program would keep the start of its first call.
        if not self.warm_start or is_traced():
            return solve_from_zero(problem, self.solver, batch_shape)
        start = self._warm_start.start(name, problem, place)
        if batch_shape:
            start = start.expand(*batch_shape, *start.shape[-2:])
        solution = implicit.solve(problem, self.solver, start)
        self._warm_start.remember(name, problem, place, solution)
        return solution

    def _solve_with_likelihood(
        self, name: str, problem: LatentProblem, place: RowPlace | None
    ) -> AtRoot:
        """The latents of a problem, from where they were last, with log densities of its rows."""
        if not self.warm_start:
            zero = problem.b.detach().new_zeros(()).expand(problem.num_rows, problem.latent_dim)
            return solve_with_likelihood(problem, self.solver, zero)
        start = self._warm_start.start(name, problem, place)
        found = solve_with_likelihood(problem, self.solver, start)
        self._warm_start.remember(name, problem, place, found.solution)
        return found

    def _answer_blocks(
        self,
        values: dict[str, Tensor],
        answers: Answers,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Runs the model with its block latents answered, given all other latents."""
        plates = self._existing_plates()
        model: Any = self._whole_model[0]
        call = call_of_block(model, values, plates, args, kwargs)
        if call is not None:
            return answer_block(model, values, answers, call, self._see_columns)
        messenger = LatentMessenger(
            self._latent_sites,
            answers,
            self._group_answers(values, answers, args, kwargs),
            values,
            plates,
            self._see_columns,
        )
        return messenger.run(model, *args, **kwargs)

    def _group_answers(
        self,
        values: dict[str, Tensor],
        answers: Answers,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, GroupAnswer]:
        """The posteriors of latents that depend on more than one table, by name of their sites."""
        model = self._whole_model[0]
        groups = self._dependences.groups(model, self._latent_sites, values, args, kwargs)
        groups = [group for group in groups if not group.is_single_table]
        if not groups:
            return {}
        reader = read_groups(self, groups, values, args, kwargs)
        found: dict[str, GroupAnswer] = {}
        for group in groups:
            of_group = group_problem(group, reader, model, args, kwargs)
            for name in group.latents:
                self._see_columns(name, reader.latents[name].site.arguments)
            for name in group.tables:
                table = reader.tables[name]
                if table.view is not None:
                    self._see_columns(name, table.arguments)
            self._check_rows_once(of_group)
            key, place = " ".join(group.latents), of_group.site.rows
            solution = answers.solve(key, of_group.problem, place, of_group.batch_shape)
            posterior = answers.posterior(of_group.problem, solution)
            answer = GroupAnswer(of_group, solution.value, posterior)
            found.update(dict.fromkeys(group.latents, answer))
        return found

    def _check_rows_once(self, found: GroupProblem) -> None:
        """An error if terms of a group couple rows; looked at once per group."""
        others = found.others
        if others is None or found.group in self._checked_groups:
            return
        problem = found.problem
        shape = (*found.batch_shape, problem.num_rows, problem.latent_dim)
        with torch.no_grad():
            others.check_rows(problem.b.new_zeros(shape))
        self._checked_groups.add(found.group)

    def _see_columns(self, site: str, arguments: tuple[Any, ...]) -> None:
        """Checks the columns of a table in a run, which may be a step of training."""
        y, covariates = arguments[0], as_pandas(arguments[-1])
        self.check_columns(site, y)
        self.check_covariates(site, covariates)
        if computes_loss():
            columns = self._trained_guide()._columns
            columns.remember_first(site, y)
            columns.remember_first(covariate_key(site), covariates)

    def check_columns(self, site: str, y: Any) -> None:
        """An error if a frame has other columns than the guide was trained on.

        Args:
            site: the name of the site of the block's latents.
            y: the observations of the block, as the user has passed them.

        Raises:
            ValueError: if the columns are others, or in another order.
        """
        self._trained_guide()._columns.check(site, y)

    def check_covariates(self, site: str, covariates: Any) -> None:
        """An error if a frame has other covariates than the guide was trained on.

        Args:
            site: the name of the site of the block's latents.
            covariates: the covariates of the rows, as the user has passed them.

        Raises:
            ValueError: if the columns are others, or in another order.
        """
        key = covariate_key(site)
        self._trained_guide()._columns.check(key, as_pandas(covariates), "covariates")

    def covariate_labels(self) -> list[Any] | None:
        """The names of the covariates that the guide of a single block was trained on, if any.

        Raises:
            RuntimeError: if the guide has not seen data yet.
            ValueError: if the model has several blocks.
        """
        return self._trained_guide()._columns.of(covariate_key(self._labels_of_block()))

    def column_labels(self) -> list[Any] | None:
        """The labels of the columns that the guide of a single block was trained on, if any.

        Errors are as in :meth:`covariate_labels`.
        """
        return self._trained_guide()._columns.of(self._labels_of_block())

    def name_columns(self, names: Sequence[Any]) -> None:
        """Names the columns of the table of a guide that was trained on rows without names.

        They are the names of tables of results, and frames with other columns are refused.

        Args:
            names: one for each column, such as the genes of sparse counts.

        Raises:
            RuntimeError: if the guide has not seen data yet.
            ValueError: if the model has several blocks, or another number of columns.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.full((20, 3), 2.0))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, latent_dim=1))
            >>> fit = guide.fit(y)
            >>> guide.name_columns(["oak", "elm", "ash"])
            >>> guide.column_labels()
            ['oak', 'elm', 'ash']
        """
        key = self._labels_of_block()
        (sites,) = self._known_blocks().values()
        if len(names) != sites.block.num_features:
            raise ValueError(
                f"names must be one for each of the {sites.block.num_features} columns, got "
                f"{len(names)}"
            )
        self._trained_guide()._columns.remember(key, SimpleNamespace(columns=list(names)))

    def column_categories(self) -> Categories | None:
        """The named categories of the columns that the guide was trained on, if any.

        Errors are as in :meth:`covariate_labels`.
        """
        return self._trained_guide()._columns.categories_of(self._labels_of_block())

    def _labels_of_block(self) -> str:
        """The key of the labels of the only block."""
        blocks = self._known_blocks()
        if not blocks:
            raise UnseenError("the guide has not seen data yet, and knows no names: fit it")
        if len(blocks) > 1:
            raise SeveralBlocksError(
                f"the model must have a single block for its names, got the blocks {sorted(blocks)}"
            )
        (sites,) = blocks.values()
        return sites.labels

    # ---------------------------------------------------------- at the medians of all other latents

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of every latent, given the arguments of the model, by site name."""
        with LOCK, own_errors():
            self._see(*args, **kwargs)
            roots = self.roots(*args, **kwargs)
            latents = {root.sites.latents: root.latents for root in roots}
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

        def find(
            name: str, problem: LatentProblem, place: RowPlace | None, batch_shape: torch.Size
        ) -> Solution:
            del place
            solution = solve_from_zero(problem, self.solver, batch_shape)
            begin = 0
            for site in name.split(" "):
                block = sites[site].block
                whole = " " not in name
                end = problem.latent_dim if whole else begin + block.site_dim
                found.append(BlockRoot(sites[site], problem, solution, slice(begin, end)))
                begin = end
            return solution

        def at_root(problem: LatentProblem, solution: Solution) -> dist.TorchDistribution:
            del problem
            return dist.Delta(solution.value, event_dim=1)

        self._see(*args, **kwargs)
        self._refuse_moved_parameters()
        sites = {found.latents: found for found in self._sites.values() if found.has_latents}
        with LOCK, own_errors(), poutine.block():
            medians = self._upstream_medians(*args, **kwargs)
            self._answer_blocks(medians, Answers(find, at_root), args, kwargs)
        return found

    def group_roots(self, *args: Any, **kwargs: Any) -> list[GroupRoot]:
        """The roots of all groups of latents, with their tables, at the medians of all others."""
        self._see(*args, **kwargs)
        self._refuse_moved_parameters()
        with LOCK, own_errors(), poutine.block():
            return find_group_roots(self, args, kwargs)

    @torch.no_grad()
    def marginals(
        self, values: Mapping[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Marginal]:
        """Log densities of rows with their latents integrated out, to second order.

        They are for latents that depend on more than one table. The log density of a single table
        is at its own site.

        Args:
            values: the values of all latents of the model, by name; latents of blocks do not count.
            *args: arguments of the model.
            **kwargs: arguments of the model.

        Returns:
            By name: ``y_marginal`` of every block, its table alone with its latents integrated out
            under their prior; and ``marginal`` of the block that has the latents, everything that
            the model observes of them, or all their tables with ``condition_on="table"``.
        """
        with LOCK, own_errors():
            self._see(*args, **kwargs)
            return find_marginals(self, values, args, kwargs)

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
