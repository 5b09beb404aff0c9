"""The choice ``globals="laplace"``: loading and intercept with their posterior of a table."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.global_posterior import (
    COEFFICIENTS,
    GlobalPosterior,
    learn_block_scale,
    whole_table,
)
from pyro_expfam.guides.learnt_blocks import UnseenError
from pyro_expfam.guides.medians import refuse_gradients
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.guides.shared_training import SharedTraining
from pyro_expfam.guides.table_fit import noise_scale
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.handlers import computes_loss
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.user_warning import warn_user

NO_POSTERIOR = (
    "the guide has no posterior of loading and intercept as they are trained now: fit it, or "
    "call update_globals with the table"
)


class GlobalsLaplace(SharedTraining):
    """A guide that may replace trained coefficients by draws from their posterior.

    The posterior belongs to one table and to one state of the parameters. It no longer counts when
    the parameters are trained again.

    Args:
        model: as for :class:`BlockGuide`.
        global_guide: as for :class:`BlockGuide`.
        solver: as for :class:`BlockGuide`.
        warm_start: as for :class:`BlockGuide`.
        params: a guide of the same model whose parameters this one shares, or None.
        globals: ``"laplace"``, or None for the coefficients as they are trained.

    Raises:
        ValueError: if ``globals`` is something else, or the model is not a single block.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        global_guide: Callable[[Callable[..., Any]], AutoGuide],
        solver: Solver | str | None,
        warm_start: bool,
        params: BlockGuide | None,
        globals: str | None,
    ) -> None:
        super().__init__(model, global_guide, solver, warm_start, params)
        if globals not in (None, "laplace"):
            raise ValueError(f"globals must be 'laplace' or left out, got {globals!r}")
        if globals == "laplace" and not isinstance(model, ExpFamPCA):
            raise ValueError(
                "globals='laplace' wants a model that is a single block, a pyro_expfam.ExpFamPCA; "
                f"got {type(model).__name__}: take a global_guide such as AutoNormal in its place"
            )
        self._has_global_posterior = globals == "laplace"
        self._takes_sandwich = False
        self._global_posterior: GlobalPosterior | None = None
        self._made_from: list[Tensor] | None = None

    @property
    def coefficients(self) -> CoefficientPosterior:
        """The posterior of loading and intercept, with ``globals="laplace"``.

        Raises:
            RuntimeError: if the guide has no posterior yet, or loading and intercept have been
                trained since it was made.
        """
        if not self._has_global_posterior:
            raise UnseenError(
                "the guide has no posterior of loading and intercept: make the guide with "
                "globals='laplace', as in pyro_expfam.LaplaceGuide(model, globals='laplace')"
            )
        posterior = self._current_posterior()
        if posterior is None:
            raise UnseenError(NO_POSTERIOR)
        return posterior.posterior

    def update_globals(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        order: int = 1,
    ) -> None:
        """Makes the posterior of loading and intercept for a table, with ``globals="laplace"``.

        It starts from the trained loading and intercept, and finds the maximum of the evidence of
        the table. The trained parameters stay as they are. If the block learns the scale of
        Gaussian noise, and has not been trained yet, the guide is fitted to the table first.

        Args:
            y: observations of all rows, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``.
            order: 1 for the inverse information as the covariance of loading and intercept, 2 for
                the next order. The second order takes two Hessians for each coefficient, of which
                there may be 200: it is for small tables. On counts of 25 x 5 and 40 x 6 the
                standard deviations of loadings are 0.84 of the exact ones to first order, and 0.98
                to second order.

        Raises:
            ValueError: if the guide has another posterior of the globals, the table does not
                determine loading and intercept, or ``order`` is 2 for more than 200 coefficients.

        Warns:
            UserWarning: if the posterior of some columns is too skew for a normal, such as a
                column without an event under a wide prior of its intercept.
        """
        if not self._has_global_posterior:
            raise ValueError("globals must be 'laplace' for update_globals, got a guide without")
        with outside_inference_mode(), torch.no_grad(), poutine.block():
            self._make_posterior(self._whole_problem(y, offset, mask, weights), order)

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
            >>> guide = pef.LaplaceGuide(model, globals="laplace")
            >>> _ = guide.fit(y)
            >>> guide.with_sandwich()(y)["loading"].shape
            torch.Size([4, 1])
        """
        posterior = self._current_posterior()
        if posterior is None:
            raise UnseenError(NO_POSTERIOR)
        other = copy.copy(self)
        other._takes_sandwich = True
        other._global_posterior = posterior.with_sandwich()
        return other

    def learn_loading_scale(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> None:
        """Sets the block's ``loading_scale`` to the value with the greatest evidence of a table.

        Loading and intercept are integrated out of this evidence too, so the guide must have
        ``globals="laplace"``. The guide then has the posterior of loading and intercept for this
        table. A scale per latent, ``(l,)``, goes to a thousandth of the largest scale for a latent
        that is not needed (automatic relevance determination). It may also stay at a small value
        of its own, if the evidence has a maximum there: the latent then fits noise of the table.
        A learnt scale of Gaussian noise is taken for known. If the block has not been trained yet,
        the guide is fitted to the table first, which learns it.
        The arguments are as for :meth:`update_globals`.

        Raises:
            ValueError: if the guide has another posterior of the globals, the loading has
                no scale to learn, or the table does not determine loading and intercept.

        Source: MacKay (1992).

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.randn(1, 6)))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, loading_scale=torch.ones(2))
            >>> guide = pef.LaplaceGuide(model, globals="laplace")
            >>> guide.learn_loading_scale(y)
            >>> model.loading_scale.shape
            torch.Size([2])
        """
        if not self._has_global_posterior:
            raise ValueError(
                "globals must be 'laplace' for learn_loading_scale, got a guide without"
            )
        with outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self._whole_problem(y, offset, mask, weights)
            block: Any = self.model
            self._begin_training()
            self._make_posterior(learn_block_scale(block, problem, self.solver))

    def sample_globals(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents that are not a block's, by site name."""
        if not self._has_global_posterior:
            return self._sample_trained(*args, **kwargs)
        if computes_loss():
            raise RuntimeError(
                "globals='laplace' has no parameters that SVI could train, and a loss of it no "
                "gradient: fit the guide by guide.fit, or train a DEQMAPGuide and make "
                "LaplaceGuide(model, params=that_guide, globals='laplace'). The value of a loss "
                "can be had in torch.no_grad(), as from SVI.evaluate_loss"
            )
        if self._current_posterior() is None:
            self._make_posterior_of_call(*whole_table(*args, **kwargs))
        posterior: Any = self._global_posterior
        with poutine.block(hide=posterior.site_names):
            others = self._sample_trained(*args, **kwargs)
        return {**others, **posterior.sample()}

    def global_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, by site name."""
        medians = super().global_medians(*args, **kwargs)
        posterior = self._current_posterior()
        return medians if posterior is None else {**medians, **posterior.medians()}

    def _live_global_medians(self) -> dict[str, Tensor]:
        medians = super()._live_global_medians()
        posterior = self._current_posterior()
        if posterior is None:
            return medians
        what = "the medians of globals='laplace'"
        return {**medians, **refuse_gradients(posterior.medians(), self._trained_guide(), what)}

    @torch.no_grad()
    def trained_root(self, root: BlockRoot) -> BlockRoot:
        """The root of a block at the mode of its coefficients.

        The medians of the posterior are corrected for skewness, and differ from the mode. Without
        ``globals="laplace"`` both are the same.
        """
        if self._global_posterior is None:
            return root
        mode = self.coefficients.mode
        problem = with_coefficients(root.problem.distinct().double(), mode)
        return root._replace(problem=problem, solution=solve(problem, self.solver))

    def unreliable_columns(self) -> Tensor | None:
        """Columns whose coefficients have a posterior too skew for a normal, booleans ``(d,)``."""
        if self._global_posterior is None:
            return None
        return self.coefficients.unreliable_columns

    def _whole_problem(self, *table: Any) -> LatentProblem:
        """The problem of the latents under the trained coefficients."""
        self._learn_noise_scale(*table)
        self._see(*table)
        if self.params is not None:
            self.params._see(*table)
        self._global_posterior = None
        # A guide that has not been trained makes its parameters in this run.
        self._sample_trained(*table)
        (sites,) = self._known_blocks().values()
        self._trained_guide()._columns.remember_first(sites.latents, table[0])
        return self.block()._problem(*table)

    def _learn_noise_scale(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> None:
        """Fits the guide if its block learns the scale of Gaussian noise and nothing has yet.

        The posterior takes the scale for known. Its start value says nothing about the table.
        """
        block: Any = self.model
        if noise_scale(block) is None or block._trained_by is not None:
            return
        super().fit(y, offset, mask, weights, progress=False, loss=LaplaceEvidence())

    def _make_posterior(self, problem: LatentProblem, order: int = 1) -> None:
        block: Any = self.model
        posterior = GlobalPosterior(block, problem, self.solver, order)
        self._global_posterior = posterior.with_sandwich() if self._takes_sandwich else posterior
        self._made_from = self._state()

    def _make_posterior_of_call(self, *table: Any) -> None:
        """Makes the posterior for the table of a call, which may be the wrong table."""
        with outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self._whole_problem(*table)
            trained_on = self._trained_guide()._trained_on
            if trained_on is not None and trained_on.differs_from(problem):
                warn_user(
                    "y is not the table that loading and intercept were trained on, of "
                    f"{trained_on.num_rows} rows: their posterior is now that of the "
                    f"{problem.num_rows} rows of this call. Call update_globals first, with the "
                    "table that it should be of",
                )
            self._make_posterior(problem)

    def _current_posterior(self) -> GlobalPosterior | None:
        """The posterior of the globals, unless they have been trained since it was made."""
        if self._global_posterior is None or self._made_from is None:
            return None
        now, then = self._state(), self._made_from
        same = len(now) == len(then) and all(
            torch.equal(a.to(b), b) for a, b in zip(now, then, strict=True)
        )
        return self._global_posterior if same else None

    @torch.no_grad()
    def _state(self) -> list[Tensor]:
        """The present values of all that the posterior depends on, without its table."""
        block: Any = self.model
        family = [x for x in vars(block.family).values() if isinstance(x, Tensor)]
        # Several threads may ask, and all of them share Pyro's handlers.
        with LOCK, poutine.block():
            state = [
                self._trained_coefficients(),
                self._trained_value("latent_precision"),
                block.coefficient_precision(),
                *family,
            ]
        return [x.detach().clone() for x in state]

    @torch.no_grad()
    def _trained_coefficients(self) -> Tensor:
        """The trained loading and intercept, side by side, ``(d, l + 1)``."""
        loading, intercept = (self._trained_value(name) for name in COEFFICIENTS)
        return torch.cat([loading, intercept[:, None]], 1)

    def _trained_value(self, attribute: str) -> Tensor:
        """The trained value of an attribute of the block."""
        block: Any = self.model
        medians, site = super()._live_global_medians(), block.site_name(attribute)
        value: Tensor = medians[site] if site in medians else getattr(block, attribute)
        return value
