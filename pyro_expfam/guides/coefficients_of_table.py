"""Which table the posterior of loading and intercept belongs to, and when it is made."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from pyro import poutine
from torch import Tensor

from pyro_expfam.coefficients import (
    CoefficientPosterior,
    ParameterPosterior,
    parameter_posterior,
)
from pyro_expfam.coefficients.covariance import LARGEST_DENSE
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.mixed_frames import in_order_of_names
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.processes import ONE, Processes, processes_of
from pyro_expfam.guides.block_scale import learn_block_scale
from pyro_expfam.guides.coefficient_draws import known_of_table
from pyro_expfam.guides.coefficient_guide import CoefficientGuide
from pyro_expfam.guides.column_labels import covariate_key
from pyro_expfam.guides.errors import NoCoefficientGuideError
from pyro_expfam.guides.fitted_guide import TABLE, on_its_device, table_arguments
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.guides.rows_of_process import problem_of_process, some_rows
from pyro_expfam.guides.shared_training import SharedTraining
from pyro_expfam.guides.table_objective import (
    free_parameters,
    is_read_in_parts,
    learns_by_column,
    noise_scale,
)
from pyro_expfam.joint import Fit
from pyro_expfam.joint.account import INTERRUPTED
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.user_warning import warn_user


class CoefficientsOfTable(SharedTraining):
    """A guide that makes the posterior of a :class:`CoefficientGuide` for a table.

    The posterior belongs to one table and to one state of the parameters. It no longer counts when
    the parameters are trained again. With any other ``global_guide`` there is no posterior, and
    what reads or makes one is an error.
    """

    @property
    def _coefficient_guide(self) -> CoefficientGuide | None:
        found = self.global_guide
        return found if isinstance(found, CoefficientGuide) else None

    def _wanted_coefficient_guide(self, what: str) -> CoefficientGuide:
        guide = self._coefficient_guide
        if guide is None:
            raise NoCoefficientGuideError(
                f"{what} wants a CoefficientGuide as global_guide, got a guide without, which has "
                "no posterior of loading and intercept: make the guide with globals='laplace', as "
                "in pyro_expfam.LaplaceGuide(model, globals='laplace')"
            )
        return guide

    @property
    def coefficients(self) -> CoefficientPosterior:
        """The posterior of loading and intercept, where the guide has a :class:`CoefficientGuide`.

        Raises:
            RuntimeError: if the guide has no posterior yet, or loading and intercept have been
                trained since it was made.
        """
        return self._wanted_coefficient_guide("coefficients").posterior()

    def update_globals(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        order: int = 1,
        *,
        processes: Any = None,
    ) -> None:
        """Makes the posterior of loading and intercept for a table.

        It starts from the trained loading and intercept, and finds the maximum of the evidence of
        the table. The trained parameters stay as they are. If the block learns the scale of
        Gaussian noise, and has not been trained yet, the guide is fitted to the table first.
        Several processes make one posterior, the same in all of them, of all of their rows.

        Args:
            y: observations of all rows, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``.
            covariates: known numbers of each row, ``(N, p)``.
            order: 1 for the inverse information as the covariance of loading and intercept, 2 for
                the next order. The second order takes two Hessians for each coefficient, of which
                there may be 200: it is for small tables. On counts of 25 x 5 and 40 x 6 the
                standard deviations of loadings are 0.84 of the exact ones to first order, and 0.98
                to second order.
            processes: the processes that hold the rows, as for ``fit``.

        Raises:
            ValueError: if the guide has no :class:`CoefficientGuide`, the table does not determine
                loading and intercept, or ``order`` is 2 for more than 200 coefficients.
            ~pyro_expfam.joint.ProcessesError: if another process has stopped.

        Warns:
            UserWarning: if the posterior of some columns is too skew for a normal, such as a
                column without an event under a wide prior of its intercept.
        """
        guide = self._wanted_coefficient_guide("update_globals")
        group = processes_of(processes, on_its_device(self.model))
        with LOCK, outside_inference_mode(), torch.no_grad(), poutine.block(), group.together():
            table = (y, offset, mask, weights, covariates)
            problem = self._whole_problem(guide, *table, processes=group)
            guide.make(problem, self.solver, order, self._names_of_columns())

    def with_sandwich(self) -> Self:
        """A guide that draws loading and intercept with their sandwich covariance.

        It shares everything else with this guide. It takes the sandwich again whenever it makes
        the posterior anew, as by a fit or by :meth:`update_globals`. Intervals from its draws, as
        in ``to_arviz(model, guide.with_sandwich(), y)``, hold also where rows spread more or less
        than the model says. Overdispersed counts are an example. See
        :attr:`~pyro_expfam.coefficients.CoefficientPosterior.sandwich`.

        Raises:
            RuntimeError: if the guide has no posterior of loading and intercept yet, or they have
                been trained since it was made.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.full((50, 4), 2.0))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), num_features=4, latent_dim=1)
            >>> guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
            >>> _ = guide.fit(y)
            >>> guide.with_sandwich()(y)["loading"].shape
            torch.Size([4, 1])
        """
        guide = self._wanted_coefficient_guide("with_sandwich").with_sandwich()
        other = copy.copy(self)
        vars(other).update(_modules={**self._modules, "global_guide": guide})
        return other

    def learn_loading_scale(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> None:
        """Sets the block's ``loading_scale`` to the value with the greatest evidence of a table.

        Loading and intercept are integrated out of this evidence too, so the guide must have a
        :class:`CoefficientGuide`. It then has the posterior of loading and intercept for this
        table. A scale per latent, ``(l,)``, goes to a thousandth of the largest scale for a latent
        that is not needed (automatic relevance determination). It may also stay at a small value
        of its own, if the evidence has a maximum there: the latent then fits noise of the table.
        A learnt scale of Gaussian noise is taken for known. If the block has not been trained yet,
        the guide is fitted to the table first, which learns it.
        The arguments are as for :meth:`update_globals`.

        Raises:
            ValueError: if the guide has no :class:`CoefficientGuide`, the loading has no scale to
                learn, or the table does not determine loading and intercept.

        Source: MacKay (1992).

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.randn(1, 6)))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, loading_scale=torch.ones(2))
            >>> guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
            >>> guide.learn_loading_scale(y)
            >>> model.loading_scale.shape
            torch.Size([2])
        """
        guide = self._wanted_coefficient_guide("learn_loading_scale")
        with LOCK, outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self._whole_problem(guide, y, offset, mask, weights, covariates)
            block: Any = self.model
            self._begin_training()
            at_scale = learn_block_scale(block, problem, self.solver)
            guide.make(at_scale, self.solver, names=self._names_of_columns())

    def learnt_parameters(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> ParameterPosterior:
        """The normal around the learnt parameters of the family, such as sizes, given a table.

        It is the Laplace approximation at the fitted parameters, with latents, loading and
        intercept integrated out. The guide must be fitted to the evidence of the table, the default
        of :meth:`LaplaceGuide.fit`. It takes two passes over the table for each number, and the
        Hessian of all coefficients: it is for tables of up to 3,000 coefficients. A guide with a
        :class:`CoefficientGuide` draws the parameters from this normal, together with loading and
        intercept.
        The arguments are as for :meth:`update_globals`.

        Raises:
            ValueError: if the block learns no parameter of its family, has too many coefficients,
                or the table does not determine the parameters.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = pef.families.NegativeBinomial(2.0).sample(torch.full((200, 3), 1.5))
            >>> model = pef.ExpFamPCA(pef.families.NegativeBinomial("shared"), 3, 1)
            >>> guide = pef.LaplaceGuide(model)
            >>> _ = guide.fit(y)
            >>> low, high = guide.learnt_parameters(y).interval(0.9)["size"]
            >>> bool(low < model.family_size) and bool(model.family_size < high)
            True
        """
        block: Any = self.model
        if not block._learnt_of_family or not learns_by_column(block):
            raise ValueError(
                "the block must learn parameters of its family, one or one per column, got "
                f"{block._known_family}"
            )
        size = block.num_predictors * (block.latent_dim + 1 + block.num_covariates)
        if size > LARGEST_DENSE:
            raise ValueError(
                f"the table must have at most {LARGEST_DENSE:,} coefficients for a posterior of "
                f"learnt parameters, got {size:,}"
            )
        with LOCK, outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self.block()._problem(y, offset, mask, weights, covariates)
            problem = problem.distinct().double()
            guide = self._coefficient_guide
            if guide is not None and guide.is_current:
                # The medians are corrected for skewness, and differ from the maximum.
                problem = with_coefficients(problem, guide.posterior().mode)
            problem, precision, _ = known_of_table(block, problem)
            z = solve(problem, self.solver).value
            every = torch.ones(precision.shape[-1], dtype=torch.bool, device=precision.device)
            if block.row_effect is not None:
                every[block.latent_dim] = False
            parameters = free_parameters(block)
            return parameter_posterior(problem, precision, z, self.solver, every, parameters)

    @contextmanager
    def _with_trained_part(self, guide: CoefficientGuide) -> Iterator[None]:
        """Puts what is trained in place of a guide that has draws and no gradient."""
        self._modules["global_guide"] = guide.trained
        try:
            yield
        finally:
            self._modules["global_guide"] = guide

    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        """Trains on a whole table, and makes the posterior of loading and intercept for it.

        A fit that ``max_time`` or Ctrl-C has ended makes none, since the way to the maximum would
        take more time: :meth:`update_globals` makes it. A fit whose table has no such posterior
        warns, and keeps what it has learnt.
        """
        guide = self._coefficient_guide
        if guide is None:
            return super().fit(*args, **kwargs)
        with LOCK:
            guide.forget()
            with self._with_trained_part(guide):
                fit = super().fit(*args, **kwargs)
            table = table_arguments(*args, **{k: x for k, x in kwargs.items() if k in TABLE})
            limit = kwargs.get("max_time")
            is_late = limit is not None and not fit.converged and fit.seconds >= limit
            if fit.reason != INTERRUPTED and not is_late and not is_read_in_parts(table[0]):
                self._update_after_fit(table, kwargs.get("processes"))
            return fit

    def _update_after_fit(self, table: tuple[Any, ...], processes: Any) -> None:
        """Makes the posterior, with a warning where there is none: the fit is worth keeping."""
        try:
            self.update_globals(*table, processes=processes)
        except ValueError as error:
            warn_user(
                f"the fit has ended, and loading and intercept have no posterior, because {error}. "
                "What has been learnt stays, and draws and intervals raise this as an error"
            )

    def sample_globals(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents that are not a block's, by site name."""
        guide = self._coefficient_guide
        if guide is not None:
            guide.refuse_training()
            if not guide.is_current:
                self._make_of_call(guide, *whole_table(*args, **kwargs))
        return super().sample_globals(*args, **kwargs)

    @torch.no_grad()
    def trained_root(self, root: BlockRoot) -> BlockRoot:
        """The root of a block at the mode of its coefficients.

        The medians of a posterior are corrected for skewness, and differ from the mode. Without a
        posterior both are the same.
        """
        guide = self._coefficient_guide
        if guide is None or not guide.is_made:
            return root
        problem = with_coefficients(root.problem.distinct().double(), guide.posterior().mode)
        return root._replace(problem=problem, solution=solve(problem, self.solver))

    def unreliable_columns(self) -> Tensor | None:
        """Columns whose coefficients have a posterior too skew for a normal, booleans ``(d,)``."""
        guide = self._coefficient_guide
        return guide.posterior().unreliable_columns if guide is not None and guide.is_made else None

    def _whole_problem(
        self, guide: CoefficientGuide, *table: Any, processes: Processes = ONE
    ) -> LatentProblem:
        """The problem of the latents under the trained coefficients."""
        if processes.count > 1 and not self.is_trained:
            raise ValueError(
                "guide must have been trained for a posterior of several processes, which must "
                "start from the same loading: call guide.fit with the same processes first"
            )
        block: Any = self.model
        known = some_rows(block, table, processes)
        self._learn_noise_scale(*known)
        self._see(*known)
        guide.forget()
        if self._trained_guide()._has_globals:
            # A guide that has not been trained makes its parameters in this run.
            guide.trained(*known)
        (sites,) = self._known_blocks().values()
        (y,) = in_order_of_names(sites.block.family, known[0])
        columns = self._trained_guide()._columns
        columns.remember_first(sites.labels, y)
        columns.remember_first(covariate_key(sites.labels), as_pandas(known[4]))
        return problem_of_process(self.block()._problem(*known), table, processes)

    def _names_of_columns(self) -> list[str] | None:
        """The names of the columns of the table, if it is a frame."""
        (sites,) = self._known_blocks().values()
        names = self._trained_guide()._columns.of(sites.labels)
        return None if names is None else [str(name) for name in names]

    def _learn_noise_scale(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> None:
        """Fits the guide if its block learns the scale of Gaussian noise and nothing has yet.

        The posterior takes the scale for known. Its start value says nothing about the table.
        """
        block: Any = self.model
        if noise_scale(block) is None or block._trained_by is not None:
            return
        table = (y, offset, mask, weights, covariates)
        super().fit(*table, progress=False, loss=LaplaceEvidence())

    def _make_of_call(self, guide: CoefficientGuide, *table: Any) -> None:
        """Makes the posterior for the table of a call, which may be the wrong table."""
        with LOCK, outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self._whole_problem(guide, *table)
            trained_on = self._trained_guide()._trained_on
            if trained_on is not None and trained_on.differs_from(problem):
                warn_user(
                    "y is not the table that loading and intercept were trained on, of "
                    f"{trained_on.num_rows} rows: their posterior is now made from the "
                    f"{problem.num_rows} rows of this call. Call update_globals first, with the "
                    "table that it should be of",
                )
            guide.make(problem, self.solver, names=self._names_of_columns())


def whole_table(
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    num_rows: int | None = None,
    rows: Any = None,
) -> tuple[Any, ...]:
    """The table among the arguments of a block.

    Raises:
        ValueError: if it is a part of the table.
    """
    del rows
    if num_rows is not None and num_rows != len(y):
        raise ValueError(
            "y must be the whole table for a posterior of loading and intercept, got "
            f"{len(y)} of {num_rows} rows: call update_globals with all of them first"
        )
    return y, offset, mask, weights, covariates
