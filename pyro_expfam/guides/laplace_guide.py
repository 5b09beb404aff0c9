"""The Laplace guide: latents from a normal with the closed-form precision."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.positive_definite import robust_cholesky
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import sample_evidence, second_order_mean, second_order_term
from pyro_expfam.evidence.importance import KHAT_DRAWS
from pyro_expfam.guides.block_guide import BlockGuide, BlockRoot, UnseenError, point_guide
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.global_posterior import (
    COEFFICIENTS,
    GlobalPosterior,
    learn_block_scale,
    whole_table,
)
from pyro_expfam.guides.laplace_posterior import LaplacePosterior
from pyro_expfam.guides.medians import refuse_gradients
from pyro_expfam.guides.table_fit import is_loader
from pyro_expfam.guides.training_table import computes_loss
from pyro_expfam.inference_mode import outside_inference_mode
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.joint.scoring import INTERRUPTED
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA

EVIDENCE = LaplaceEvidence()
"""What a Laplace guide is fitted to by default."""

NO_POSTERIOR = (
    "the guide has no posterior of loading and intercept as they are trained now: with "
    "globals='laplace', fit it, or call update_globals with the table"
)


class LaplaceGuide(BlockGuide):
    r"""A guide whose block latents are normal, :math:`N(z^*, H(z^*)^{-1})` (appendix D).

    The mean is the root of the score that the equilibrium layer finds, the precision
    :math:`H = \lambda I + W^\top \mathrm{diag}(A'') W` is in closed form, and both are
    differentiable, so that the guide also trains, under ``Trace_ELBO`` and
    ``TraceMeanField_ELBO``.

    With ``globals="laplace"`` loading and intercept are normal too: around the maximum of the
    evidence of the table, latents integrated out, with its Hessian in closed form as the precision,
    and without the rotations of the latents, about which no table says anything. A draw is of
    loading and intercept, then of the latents given those. It is for a model that is a single
    block; a coefficient that is a point parameter stays where it has been trained to, and the
    uncertainty is conditional on it: an intercept takes part unless the block has
    ``intercept_scale=None``. A scale of Gaussian noise that is learnt is taken for known at its
    estimate, as are all hyperparameters.

    The table of that posterior is the one that the guide is fitted to, where it is in memory, or
    that of :meth:`update_globals`; without either, that of the first call, with a warning if
    loading and intercept were trained on other rows. Further calls leave it as it is, whatever
    their rows, until the parameters are trained again, by this guide or by ``params``. The
    posterior has no parameters of its own: ``SVI`` refuses it, so that a guide that it trained,
    such as a :class:`DEQMAPGuide`, comes as ``params``.

    Beyond 3,000 coefficients the Hessian is taken feature by feature: features are independent of
    each other, and the mean is the mode, without the correction for skewness. Standard deviations
    are then a little too small, since each feature takes the others for known: by 2 to 12% on
    average in ten small tables where that was forced, and by up to 43% for single coefficients.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        params: a guide of the same model, such as a trained :class:`DEQMAPGuide`, whose
            parameters this one shares; by default it has its own.
        global_guide: makes the guide of all other latents from a model that has only those, such
            as :class:`~pyro.infer.autoguide.AutoNormal`; by default a point estimate.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: as for :class:`DEQMAPGuide`.
        globals: ``"laplace"`` for a posterior of loading and intercept; by default they are what
            ``params`` or ``global_guide`` make of them.

    Raises:
        TypeError: if ``params`` is no guide of this package.
        ValueError: if ``params`` is a guide of another model, or ``globals`` is something else; at
            the first call, if the model has no block, or with ``globals="laplace"`` is not a
            single block with a Gaussian prior of loading or intercept.
        RuntimeError: where a loss is computed with gradients, as by a step of ``SVI``, with
            ``globals="laplace"``.

    Warns:
        ConditioningWarning: as for :class:`DEQMAPGuide`.
        UserWarning: at a call that makes the posterior of ``globals="laplace"`` of other rows than
            loading and intercept were trained on.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model)
        >>> latents = guide(y)["z"]
        >>> guide.posterior(y).covariance_matrix.shape
        torch.Size([20, 2, 2])

        With the uncertainty of the loading:

        >>> guide = pef.LaplaceGuide(model, globals="laplace")
        >>> guide(y)["loading"].shape, guide.coefficients.variance().shape
        (torch.Size([6, 2]), torch.Size([6, 3]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        params: BlockGuide | None = None,
        global_guide: Callable[[Callable[..., Any]], AutoGuide] = point_guide,
        solver: Solver | str | None = None,
        warm_start: bool = True,
        globals: str | None = None,
    ) -> None:
        super().__init__(model, global_guide, solver, warm_start)
        if params is not None and not isinstance(params, BlockGuide):
            raise TypeError(
                "params must be a guide of the same model, such as a trained DEQMAPGuide, got "
                f"{type(params).__name__}"
            )
        if params is not None and params.model is not model:
            raise ValueError(
                f"params must be a guide of the same model, got one of {params.model!r}"
            )
        # In a tuple, so that the parameters keep the name that they were trained under.
        self._params = (params,)
        if globals not in (None, "laplace"):
            raise ValueError(f"globals must be 'laplace' or left out, got {globals!r}")
        if globals == "laplace" and not isinstance(model, ExpFamPCA):
            raise ValueError(
                "globals='laplace' wants a model that is a single block, a pyro_expfam.ExpFamPCA; "
                f"got {type(model).__name__}: take a global_guide such as AutoNormal in its place"
            )
        self._has_global_posterior = globals == "laplace"
        self._global_posterior: GlobalPosterior | None = None
        self._made_from: list[Tensor] | None = None

    @property
    def params(self) -> BlockGuide | None:
        """The guide whose parameters this one shares, or None."""
        return self._params[0]

    def latent_distribution(self, problem: LatentProblem, solution: Solution) -> LaplacePosterior:
        """The normal around the root whose precision is the information there."""
        z = solution.value
        factor, _ = robust_cholesky(
            problem.information(z), lambda index: problem.double().information(z.double())[index]
        )
        return LaplacePosterior(z, factor)

    def posterior(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> LaplacePosterior:
        """The normal over the latents of rows of the only block's table, trained on or new.

        Mean and precision are differentiable in what :meth:`latents` is. With
        ``globals="laplace"`` a gradient in parameters of the guide is refused on the way back: the
        posterior of the coefficients has none.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
        """
        return self.block().posterior(y, offset, mask, weights)

    def row_stats(self, root: BlockRoot) -> dict[str, Tensor]:
        """Convergence of rows, and how near their posterior is to the normal.

        Beside what every guide reports: ``khat``, the Pareto shape of importance weights from
        1,000 draws, ``(N,)``; ``second_order_term``, what the next order adds to the Laplace
        evidence, ``(N,)``; and ``mean_shift``, from the root to the posterior mean, ``(N, l)``.
        """
        problem, z = root.problem, root.solution.value
        return {
            **super().row_stats(root),
            "khat": sample_evidence(problem, z, KHAT_DRAWS).khat,
            "second_order_term": second_order_term(problem, z),
            "mean_shift": second_order_mean(problem, z) - z,
        }

    def update_globals(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        order: int = 1,
    ) -> None:
        """Makes the posterior of loading and intercept that of a table, with ``globals="laplace"``.

        From where they have been trained to, they go to the maximum of the evidence of the table;
        the parameters that they were trained as stay.

        Args:
            y: observations of all rows, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``.
            order: 1 for the inverse information as the covariance of loading and intercept, 2 for
                the next order. It costs two Hessians for each of at most 200 coefficients, and is
                for small tables: on counts of 25 x 5 and 40 x 6 standard deviations of loadings
                are 0.84 of the exact ones to first order and 0.98 to second.

        Raises:
            ValueError: if the guide has another posterior of the globals, the table does not
                determine loading and intercept, or ``order`` is 2 for more than 200 coefficients.

        Warns:
            UserWarning: if the posterior of some columns is too skew for a normal to stand for it,
                as of a column without an event under a wide prior of its intercept.
        """
        if not self._has_global_posterior:
            raise ValueError("globals must be 'laplace' for update_globals, got a guide without")
        with outside_inference_mode(), torch.no_grad(), poutine.block():
            self._make_posterior(self._whole_problem(y, offset, mask, weights), order)

    def with_sandwich(self) -> LaplaceGuide:
        """A guide that draws loading and intercept with their sandwich covariance.

        It shares everything else with this guide. Intervals from its draws, as of
        ``to_arviz(model, guide.with_sandwich(), y)``, hold where rows spread more or less than the
        model says, as overdispersed counts do; see
        :attr:`~pyro_expfam.coefficients.CoefficientPosterior.sandwich`.

        Raises:
            RuntimeError: if the guide has no posterior of loading and intercept yet, or they have
                been trained since.

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
        other._global_posterior = posterior.with_sandwich()
        return other

    def learn_loading_scale(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None
    ) -> None:
        """Sets the block's ``loading_scale`` to where the evidence of a table is greatest.

        That is the evidence with loading and intercept integrated out too, which is what
        ``globals="laplace"`` is for; the posterior of the globals is then that of the table. A
        scale by latent, ``(l,)``, goes to a thousandth of the largest for a latent that is not
        needed (automatic relevance determination), or stays at a small value of its own where the
        evidence has a maximum there: noise of the table has a use for it. Arguments are those of
        :meth:`update_globals`.

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

    def _whole_problem(self, *table: Any) -> LatentProblem:
        """The problem of the latents at trained coefficients."""
        self._see(*table)
        if self.params is not None:
            self.params._see(*table)
        self._global_posterior = None
        # Makes the parameters of a guide that has not been trained.
        self._sample_trained(*table)
        return self.block()._problem(*table)

    def _make_posterior(self, problem: LatentProblem, order: int = 1) -> None:
        block: Any = self.model
        self._global_posterior = GlobalPosterior(block, problem, self.solver, order)
        self._made_from = self._state()

    def _make_posterior_of_call(self, *table: Any) -> None:
        """The same of the table of a call, of which nobody has said that it is the right one."""
        with outside_inference_mode(), torch.no_grad(), poutine.block():
            problem = self._whole_problem(*table)
            trained_on = self._trained_guide()._trained_on
            if trained_on is not None and trained_on.differs_from(problem):
                warnings.warn(
                    "y is not the table that loading and intercept were trained on, of "
                    f"{trained_on.num_rows} rows: their posterior is now that of the "
                    f"{problem.num_rows} rows of this call. Call update_globals first, with the "
                    "table that it should be of",
                    stacklevel=2,
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
        """All that the posterior of the globals depends on beside its table, as it is now."""
        block: Any = self.model
        family = [x for x in vars(block.family).values() if isinstance(x, Tensor)]
        with poutine.block():
            state = [
                self._trained_coefficients(),
                self._trained_value("latent_precision"),
                block.coefficient_precision(),
                *family,
            ]
        return [x.detach().clone() for x in state]

    @torch.no_grad()
    def _trained_coefficients(self) -> Tensor:
        """Loading and intercept as they have been trained, side by side, ``(d, l + 1)``."""
        loading, intercept = (self._trained_value(name) for name in COEFFICIENTS)
        return torch.cat([loading, intercept[:, None]], 1)

    def _trained_value(self, attribute: str) -> Tensor:
        """An attribute of the block as it has been trained."""
        block: Any = self.model
        medians, site = self._live_trained_medians(), block.site_name(attribute)
        value: Tensor = medians[site] if site in medians else getattr(block, attribute)
        return value

    @property
    def coefficients(self) -> CoefficientPosterior:
        """The posterior of loading and intercept, with ``globals="laplace"``.

        Raises:
            RuntimeError: if the guide has none yet, or they have been trained since.
        """
        posterior = self._current_posterior()
        if posterior is None:
            raise UnseenError(NO_POSTERIOR)
        return posterior.posterior

    def fit(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        max_sweeps: int = 500,
        tol: float = 1e-7,
        max_time: float | None = None,
        callback: Callable[[Sweep], object] | None = None,
        progress: bool | None = None,
        loss: LaplaceEvidence | None = EVIDENCE,
    ) -> Fit:
        """Trains on a whole table, by default to where its evidence is greatest.

        It is :meth:`DEQMAPGuide.fit` with another default: latents are integrated out, as befits a
        guide that has a posterior of them. The joint MAP estimate, ``loss=None``, is that of
        ``DEQMAPGuide(model).fit``; ``LaplaceGuide(model, params=that_guide)`` has the posteriors
        of latents around it, without a fit of its own.

        A guide with ``params`` trains the parameters that it shares, from where they are: a
        :class:`DEQMAPGuide` that was fitted to the joint estimate then has the loading of the
        evidence too.

        With ``globals="laplace"`` the posterior of loading and intercept is then that of the table,
        around the maximum of the evidence, whatever the loss. After a fit to batches, or one that
        Ctrl-C has ended, :meth:`update_globals` makes it.

        Args:
            y: as for :meth:`DEQMAPGuide.fit`, as are all others but ``loss``.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            max_sweeps: the most evaluations of the whole table.
            tol: what a step has to promise, relative to the objective.
            max_time: seconds after which no further sweep begins.
            callback: called with each :class:`~pyro_expfam.joint.Sweep`.
            progress: whether to show a line with sweep, objective and seconds.
            loss: a :class:`~pyro_expfam.LaplaceEvidence`, whose ``order`` alone matters here, by
                default the first; or None for the joint MAP estimate.

        Returns:
            The :class:`~pyro_expfam.joint.Fit`.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
            >>> guide.fit(y).converged
            True
            >>> guide.posterior(y).mean.shape
            torch.Size([100, 2])
        """
        self._global_posterior = None
        fit = super().fit(
            y, offset, mask, weights, max_sweeps, tol, max_time, callback, progress, loss
        )
        if fit.reason != INTERRUPTED and self._has_global_posterior and not is_loader(y):
            self.update_globals(y, offset, mask, weights)
        return fit

    def _trained_guide(self) -> BlockGuide:
        return self if self.params is None else self.params._trained_guide()

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

    def _sample_trained(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.params is None:
            return super()._sample_trained(*args, **kwargs)
        self.params._see(*args, **kwargs)
        return self.params.sample_globals(*args, **kwargs)

    def global_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, by site name."""
        medians = self._trained_medians(*args, **kwargs)
        posterior = self._current_posterior()
        return medians if posterior is None else {**medians, **posterior.medians()}

    def _trained_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The same from the guide whose parameters are trained."""
        if self.params is None:
            return super().global_medians(*args, **kwargs)
        return self.params.global_medians(*args, **kwargs)

    def _claim(self) -> None:
        super()._claim()
        if self.params is not None:
            self.params._claim()

    def _live_global_medians(self) -> dict[str, Tensor]:
        medians = self._live_trained_medians()
        posterior = self._current_posterior()
        if posterior is None:
            return medians
        what = "the medians of globals='laplace'"
        return {**medians, **refuse_gradients(posterior.medians(), self._trained_guide(), what)}

    def _live_trained_medians(self) -> dict[str, Tensor]:
        if self.params is None:
            return super()._live_global_medians()
        return self.params._live_global_medians()

    @torch.no_grad()
    def trained_root(self, root: BlockRoot) -> BlockRoot:
        """The root of a block at the mode of its coefficients: medians are corrected for skewness.

        Without ``globals="laplace"`` both are the same.
        """
        if self._global_posterior is None:
            return root
        mode = self.coefficients.mode
        problem = with_coefficients(root.problem.distinct().double(), mode)
        return root._replace(problem=problem, solution=solve(problem, self.solver))

    def _warn_of_ignored_observations(self, args: Any, kwargs: Any) -> None:
        # The guide whose parameters it shares sees the model too.
        if self.params is None:
            super()._warn_of_ignored_observations(args, kwargs)

    def _known_blocks(self) -> dict[str, BlockSites]:
        return self._sites or ({} if self.params is None else self.params._known_blocks())
