"""What the guides of exponential-family PCA have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer.autoguide import AutoCallable, AutoDelta, AutoGuide, init_to_median
from pyro.nn import PyroModule
from pyro.nn.module import pyro_method
from torch import Tensor, nn

from pyro_expfam.deq import implicit
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.transformed import is_traced
from pyro_expfam.evidence import (
    ImportanceEvidence,
)
from pyro_expfam.guides.block_estimate import BlockEstimate
from pyro_expfam.guides.block_sites import BlockSites, find_blocks
from pyro_expfam.guides.conditioning import warn_of_ignored_observations
from pyro_expfam.guides.latent_messenger import (
    LatentMessenger,
    LatentPosterior,
    is_block_latent,
    without_block_latents,
)
from pyro_expfam.guides.medians import live_medians
from pyro_expfam.guides.saved_state import (
    GLOBALS,
    PREFIX,
    block_parameters,
    load_block_parameters,
    take_out,
)
from pyro_expfam.guides.table_fit import (
    block_objective,
    fit_parameters,
    one_row,
    point_parameters,
    rows_for_structure,
)
from pyro_expfam.guides.training_table import TrainingTable, computes_loss
from pyro_expfam.guides.warm_start import WarmStart
from pyro_expfam.inference_mode import outside_inference_mode
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.joint.scoring import check_limits
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import (
    INITIAL_LOADING_SCALE,
    ExpFamPCA,
    RowPlace,
    check_alike,
)
from pyro_expfam.ownership import (
    LOCK,
    claim,
    claim_when_called,
    without_stored,
)
from pyro_expfam.point_parameters import PointParameters


def init_to_small_loading(site: Any) -> Tensor:
    """Starts loadings small and random, intercepts at zero, and all else at its prior median."""
    if site["infer"].get("is_loading"):
        return INITIAL_LOADING_SCALE * torch.randn_like(site["fn"].mean)
    if site["infer"].get("starts_at_zero"):
        # Its median too, of which the median of some draws is far off under a wide prior.
        return torch.zeros_like(site["fn"].mean)
    return init_to_median(site)


def point_guide(model: Callable[..., Any]) -> AutoGuide:
    """The default guide of all that is not the latents of a block: a point estimate."""
    return AutoDelta(model, init_loc_fn=init_to_small_loading)


class BlockRoot(NamedTuple):
    """The latents of a block at their root.

    Attributes:
        sites: the block, and the names of its sites.
        problem: their problem.
        solution: its solution.
    """

    sites: BlockSites
    problem: LatentProblem
    solution: Solution

    @property
    def block(self) -> ExpFamPCA:
        """The block."""
        return self.sites.block


class UnseenError(RuntimeError, AttributeError):
    """A guide has been asked for what it does not know yet."""


class SeveralBlocksError(ValueError, AttributeError):
    """A guide of several blocks has been asked for something of the only one."""


class BlockGuide(AutoGuide):
    """A guide whose block latents come from the equilibrium layer; the base of both guides.

    **Parameters.** A guide owns what it learns. Pyro's store keeps parameters by name, and guides
    of one class have the same names; before a guide runs it puts its own parameters, and the
    parameters of its model, in the place of what other guides and models of this package left in
    the store. So fits of one program never touch each other, and ``pyro.clear_param_store()``
    takes nothing from a guide. What the user puts into the store, as by ``ParamStore.load``, is
    taken over at the next use of the guide. Losses that are compiled, such as ``JitTrace_ELBO``,
    read the store by name without running the guide, and want a program with one guide.

    Point parameters of a block, such as an intercept without a prior, belong to the model, and so
    to all of its guides. Where a second guide of the same model trains them, the first refuses to
    be used until it is trained again, since its loading no longer goes with them.

    **Saving.** ``state_dict()`` holds the parameters of the guide and, under ``model.``, the point
    parameters of its blocks. A fresh guide loads it before its first call: the guide of a single
    block at once, any other when its first call shows the structure of its model. A guide can
    also be pickled, copied, and saved as a whole, with its model.

    **Threads.** ``latents``, ``posterior``, ``log_evidence`` and what else :meth:`block` offers
    may be called from many threads at once; a call of the guide itself may not, since all threads
    share Pyro's handlers.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        global_guide: makes the guide of all other latents from a model that has only those,
            such as :class:`~pyro.infer.autoguide.AutoNormal`.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: whether to start from where the same rows were last.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        global_guide: Callable[[Callable[..., Any]], AutoGuide],
        solver: Solver | str | None = None,
        warm_start: bool = True,
    ) -> None:
        super().__init__(model)
        self.warm_start = warm_start
        self._warm_start = WarmStart()
        self.solver = make_solver(solver)
        # Past AutoGuide's own assignment: this part makes its own plates, for its own sites.
        PyroModule.__setattr__(self, "global_guide", global_guide(without_block_latents(model)))
        # In a tuple, so that the model's parameters stay its own.
        self._whole_model: tuple[Callable[..., Any]] = (model,)
        if isinstance(model, PyroModule) and not isinstance(model, ExpFamPCA):
            claim_when_called(model)
        self._latent_sites: frozenset[str] = frozenset()
        self._sites: dict[str, BlockSites] = {}
        self._has_globals = False
        self._earlier_values: dict[str, Tensor] = {}
        self._trained_on: TrainingTable | None = None
        self._first_parameters: dict[str, Tensor] = {}
        self._point_parameters: dict[str, PointParameters] = {}
        self._unloaded_state: dict[str, Tensor] | None = None

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
        self._note_training()
        upstream = {**self._earlier_values, **values}
        # Of this call alone: those of another would be of other particles or another table.
        self._earlier_values = {}
        latents = self._answer_blocks(upstream, self._latent_distribution, args, kwargs)
        if isinstance(self.model, ExpFamPCA) and computes_loss():
            self._trained_guide()._trained_on = TrainingTable.of_step(*args, **kwargs)
        # What has been made only now.
        self._claim()
        return {**values, **latents}

    @pyro_method
    def sample_globals(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latents that are not a block's, by site name."""
        return self._sample_trained(*args, **kwargs)

    def _sample_trained(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The same from the guide whose parameters are trained."""
        return self.global_guide(*args, **kwargs) if self._has_globals else {}

    def _trainable(self) -> dict[str, Tensor]:
        """The parameters that training moves, by name."""
        modules = {"guide": self.global_guide, "model": self._whole_model[0]}
        return {
            f"{owner}.{name}": parameter
            for owner, module in modules.items()
            for name, parameter in module.named_parameters()
        }

    def _is_untrained(self) -> bool:
        """Whether the parameters are still those that the guide began with: random, of no table."""
        now = self._trainable()
        return now.keys() == self._first_parameters.keys() and all(
            torch.equal(value, self._first_parameters[name].to(value))
            for name, value in now.items()
        )

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
            self._latent_sites, latent_distribution, values, self._existing_plates()
        )
        return messenger.run(self._whole_model[0], *args, **kwargs)

    def _see(self, *args: Any, **kwargs: Any) -> None:
        """Claims the names of parameters; the first time, looks at the structure of the model."""
        self._claim()
        if self.prototype_trace is None:
            with outside_inference_mode():
                self._setup_prototype(*args, **kwargs)
            self._warn_of_ignored_observations(args, kwargs)
        if self._unloaded_state is not None:
            self.load_state_dict(self._unloaded_state)
            self._unloaded_state = None

    def _warn_of_ignored_observations(self, args: Any, kwargs: Any) -> None:
        warn_of_ignored_observations(self._whole_model[0], self._latent_sites, args, kwargs)

    def _claim(self) -> None:
        """Has Pyro's store hold the parameters of this guide and its model under their names."""
        model = self._whole_model[0]
        if isinstance(model, nn.Module):
            claim(model)
        if self.master is None:
            claim(self)
            return
        whole = self.master()
        claim(whole)
        for part in whole:
            # A list asks its parts for their medians without being called itself.
            claim_when_called(part)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        sites = dict(self.prototype_trace.iter_stochastic_nodes())  # type: ignore[union-attr]
        latents = {name: site for name, site in sites.items() if is_block_latent(site)}
        if not latents:
            self.prototype_trace = None
            raise ValueError(
                "model must have a block, a pyro_expfam.ExpFamPCA that it calls; got a model "
                f"with latent sites {sorted(sites)}"
            )
        self._latent_sites = frozenset(latents)
        self._sites = {found.name: found for found in find_blocks(self.prototype_trace)}
        self._has_globals = len(latents) < len(sites)
        # A block that is called under several names has one set of parameters.
        of_block = {sites.block: PointParameters() for sites in self._sites.values()}
        self._point_parameters = {name: of_block[x.block] for name, x in self._sites.items()}
        if self._has_globals and self._trained_guide() is self:
            try:
                self._make_global_parameters(*args, **kwargs)
            except Exception:
                self.prototype_trace = None
                raise
        self._claim()
        if isinstance(self.model, ExpFamPCA):
            self._first_parameters = {
                name: value.detach().clone() for name, value in self._trainable().items()
            }

    def _make_global_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Makes the parameters of the guide of all other latents, whatever the store has."""
        with without_stored(self):
            for part in list(self.global_guide.modules()):
                is_made_in_its_run = not isinstance(part, AutoGuide) or type(part) is AutoCallable
                if not is_made_in_its_run and part.prototype_trace is None:
                    part._setup_prototype(*args, **kwargs)

    def _note_training(self) -> None:
        """Notes a training step, or refuses any other use of what another guide has trained."""
        if not computes_loss():
            self._refuse_moved_parameters()
        else:
            self._begin_training()

    def _begin_training(self) -> None:
        trained = self._trained_guide()
        for name, point in trained._point_parameters.items():
            point.begin_training(trained._sites[name].block)

    def _refuse_moved_parameters(self) -> None:
        """An error if another guide of the model has trained point parameters since this one."""
        trained = self._trained_guide()
        for name, point in trained._point_parameters.items():
            if point.have_moved(trained._sites[name].block):
                shared = ", ".join(key.removesuffix("_unconstrained") for key in point.left or {})
                raise RuntimeError(
                    f"{shared} of the model have been trained by another guide since this one was "
                    "trained, and no longer go with its loading: point parameters belong to the "
                    "model. Give each guide a model of its own, as by copy.deepcopy(model), make "
                    "the second guide with params= the first, or train this one again"
                )

    # ---------------------------------------------------------------- training without SVI

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
        loss: LaplaceEvidence | None = None,
    ) -> Fit:
        """Trains on a whole table by Fisher scoring, with no step size to choose.

        It sets the parameters that SVI would, to the joint MAP estimate or, with
        ``loss=LaplaceEvidence()``, to where the evidence of the table and the priors are greatest.
        The first is the default of a :class:`DEQMAPGuide`, the second of a :class:`LaplaceGuide`.
        The objective is the loss that SVI would have of a :class:`DEQMAPGuide` on the whole table,
        ``Trace_ELBO`` (Theorem 1 of the paper) or the one that is given, and never increases. A
        guide that has not been trained starts from the spectrum of the residuals. A guide that has
        been trained, or has loaded a state, goes on from where it is, and if no step leads on from
        there, from the spectrum.

        The joint estimate is the quicker one, and judges the scale of loading and latents by the
        prior alone, however many rows there are: give the loading a scale, since under a flat
        prior latents shrink and loadings grow without end. The evidence integrates the latents
        out, and learns that scale from the table. It takes three to fifteen times as long. A
        loading scale by latent is for the evidence alone.

        The scale of Gaussian noise is learnt with loading and intercept unless it is known, as
        with ``Gaussian()``; everything after the fit takes it for known. A fit from the start
        does not look at the scale's start value. Under the joint estimate it is too small, by about
        the root of ``1 - l / d``, since latents are fitted to the noise too; under the evidence it
        is not. A scale by column wants the evidence: the joint estimate refuses it, since latents
        would become copies of columns there. Other hyperparameters stay as they are, even those
        that are a :class:`~pyro.nn.PyroParam`: the precision of the latents and scales of the
        priors. SVI trains them, and :meth:`LaplaceGuide.learn_loading_scale` the scale of the
        loading.

        A table beyond memory comes as a loader, of which each batch is what the block is called
        with: ``y``; a tuple or list ``(y, offset, mask, weights)`` or the first of these; or a
        mapping from these names. A sweep is one pass over it, and about ten more find the start;
        the estimate is that of the table in memory. Latents of all rows are kept from pass to
        pass, so that the order has to stay: a loader that shuffles, or changes anything that is
        read of a batch, is refused. Beside the table,
        or a batch of it, a fit takes memory for latents, coefficients and one tile of rows.

        Args:
            y: observations, ``(N, d)``; or a loader of batches of rows, always in the same order,
                such as a :class:`~torch.utils.data.DataLoader` that does not shuffle.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
            max_sweeps: the most evaluations of the whole table, at least 1.
            tol: stops when a step promises less than this part of the objective, and the last
                one brought less; positive.
            max_time: seconds after which no further sweep begins, positive; None for no limit.
            callback: called with each :class:`~pyro_expfam.joint.Sweep`; what is true of its
                result ends the fit.
            progress: whether to show a line with sweep, objective and seconds. By default it is
                shown in a terminal and in a notebook. It never guesses what is left.
            loss: a :class:`~pyro_expfam.LaplaceEvidence`, whose ``order`` alone matters here, or
                None for the joint MAP estimate.

        Returns:
            The :class:`~pyro_expfam.joint.Fit`: objective by sweep, whether it converged, why it
            ended, and the latents of the table, ``(N, l)``. Ctrl-C ends a fit as ``max_time`` does:
            the guide has the best coefficients so far, and the fit is returned, with ``reason``
            saying so.

        Raises:
            TypeError: if ``loss`` is something else, or model and guide differ in dtype or device.
            ValueError: if the model is not a single block with Gaussian priors, an argument does
                not fit, or a limit is out of range.

        Warns:
            UserWarning: if the block has hyperparameters that SVI would train.
            UserWarning: if Ctrl-C has ended the fit.
            ConvergenceWarning: if the fit has not converged and neither ``max_time`` nor
                ``callback`` has ended it; if objective or coefficients are not finite.
            ConvergenceWarning: if the evidence to second order of discrete observations ends above
                0 for some rows, which no log probability is: the loading has run away; if a
                scale of Gaussian noise that is learnt runs to zero.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2))
            >>> guide.fit(y).converged
            True

            With the latents integrated out, from there:

            >>> guide.fit(y, loss=pef.LaplaceEvidence()).converged
            True

            With an offset, from batches, here of ``(y, offset)``:

            >>> from torch.utils.data import DataLoader, TensorDataset
            >>> rows = TensorDataset(y, y.sum(1, keepdim=True).log1p())
            >>> guide.fit(DataLoader(rows, batch_size=32)).converged
            True
        """
        if not isinstance(self.model, ExpFamPCA):
            raise ValueError(
                "fit wants a guide of a single block, a pyro_expfam.ExpFamPCA; got one of "
                f"{type(self.model).__name__}: train with SVI in its place"
            )
        check_limits(max_sweeps, tol, max_time)
        with outside_inference_mode():
            return self._fit(
                self.model,
                (loss, y, offset, mask, weights),
                callback=callback,
                progress=progress,
                max_sweeps=max_sweeps,
                tol=tol,
                max_time=max_time,
            )

    def _fit(self, block: ExpFamPCA, loss_and_table: tuple[Any, ...], **settings: Any) -> Fit:
        self._claim()
        problem = block_objective(block, *loss_and_table)
        trained = self._trained_guide()
        is_new = trained.prototype_trace is None
        rows = rows_for_structure(problem)
        self._see(rows)
        trained._see(rows)
        loading, intercept = point_parameters(block, trained.global_guide)
        check_alike(loading, intercept, block.latent_precision)
        self._begin_training()
        fit = fit_parameters(
            block,
            problem,
            loading,
            intercept,
            from_here=not (is_new or trained._is_untrained()),
            solver=self.solver,
            **settings,
        )
        trained._trained_on = TrainingTable.of_fit(problem.table)
        return fit

    def _trained_guide(self) -> BlockGuide:
        """The guide whose parameters training sets: this one, unless it shares another's."""
        return self

    # ---------------------------------------------------------------- what has been learnt

    @property
    def loading(self) -> Tensor:
        """Point estimate of the loading of the only block, ``(d, l)``, without gradients.

        Raises:
            RuntimeError: if the guide has not seen data yet (also an ``AttributeError``, so that
                ``hasattr`` is False).
        """
        return self.block().loading

    @property
    def intercept(self) -> Tensor:
        """Point estimate of the intercept of the only block, ``(d,)``, as for :attr:`loading`."""
        return self.block().intercept

    def latents(self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None) -> Tensor:
        """Latents ``(N, l)`` of rows of the only block's table, seen in training or new.

        Where gradients are enabled the latents follow the parameters of guide and model, and
        ``offset``, ``weights`` and ``y`` where these have gradients, by the implicit function
        theorem: a network with the guide in it trains its loading. Under :func:`torch.no_grad`
        they are plain numbers.

        Args:
            y: observations, ``(N, d)``.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
        """
        return self.block().latents(y, offset, mask, weights)

    def log_evidence(
        self, y: Any, offset: Any = None, mask: Any = None, weights: Any = None, order: int = 1
    ) -> Tensor:
        """The log evidence of rows of the only block's table, with their latents integrated out.

        It is what :func:`~pyro_expfam.log_evidence` makes of the guide's loading, intercept,
        precision of the latents and parameters of the family, as point estimates. It is
        differentiable in what :meth:`latents` is.

        Args:
            y: observations, ``(N, d)``, trained on or new.
            offset: known part of the natural parameters, broadcastable to ``(N, d)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of the log densities of entries, broadcastable to
                ``(N, d)``; an entry of weight 2 counts as two observations.
            order: 1 for the Laplace approximation, 2 for the next.

        Returns:
            The log evidence in nats, ``(N,)``.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, latent_precision=4.0)
            >>> guide = pef.DEQMAPGuide(model)
            >>> fit = guide.fit(y)
            >>> guide.log_evidence(y[:10], order=2).shape
            torch.Size([10])
        """
        return self.block().log_evidence(y, offset, mask, weights, order)

    def importance_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_draws: int = 1000,
    ) -> ImportanceEvidence:
        """The same by importance sampling, with standard errors and Pareto shapes.

        It is what :func:`~pyro_expfam.evidence.importance_evidence` makes of what the guide knows,
        without gradients.

        Args:
            y: as for :meth:`log_evidence`, as are the next three.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            num_draws: draws of the latents of a row, at least 50.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
            >>> fit = guide.fit(y)
            >>> guide.importance_evidence(y[:10]).khat.shape
            torch.Size([10])
        """
        return self.block().importance_evidence(y, offset, mask, weights, num_draws)

    def quadrature_evidence(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_nodes: int = 21,
    ) -> Tensor:
        """The same by adaptive Gauss-Hermite quadrature, ``(N,)``, for up to 3 latents.

        It is what :func:`~pyro_expfam.evidence.quadrature_evidence` makes of what the guide knows.

        Args:
            y: as for :meth:`log_evidence`, as are the next three.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            num_nodes: nodes along each latent.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.bernoulli(torch.full((100, 5), 0.8))
            >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 5, 1))
            >>> fit = guide.fit(y)
            >>> guide.quadrature_evidence(y[:10]).shape
            torch.Size([10])
        """
        return self.block().quadrature_evidence(y, offset, mask, weights, num_nodes)

    def importance_latents(
        self,
        y: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        num_samples: int = 100,
        num_draws: int = 1000,
    ) -> Tensor:
        """Latents ``(num_samples, N, l)`` from the posterior of rows, by importance resampling.

        It is what :func:`~pyro_expfam.evidence.importance_latents` makes of what the guide knows,
        without gradients.

        Args:
            y: as for :meth:`log_evidence`, as are the next three.
            offset: known part of the natural parameters.
            mask: False for a missing entry.
            weights: of the log densities of entries.
            num_samples: latents to return of every row.
            num_draws: draws of the latents of a row to choose among.

        Example:
            >>> import torch
            >>> import pyro_expfam as pef
            >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
            >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
            >>> fit = guide.fit(y)
            >>> guide.importance_latents(y[:10], num_samples=50).shape
            torch.Size([50, 10, 2])
        """
        return self.block().importance_latents(y, offset, mask, weights, num_samples, num_draws)

    def block(self, name: str | None = None) -> BlockEstimate:
        """What has been learnt of a block.

        Args:
            name: the name of the block in the model, such as ``"genes"``; may be left out if
                there is only one.

        Raises:
            RuntimeError: if the guide has not seen data yet.
            ValueError: if there is no such block, or ``name`` is left out and there are several.
        """
        blocks = self._known_blocks()
        if not blocks:
            raise UnseenError(
                "the guide has not seen data yet: fit it, take a training step, or call it once "
                "with the arguments of the model"
            )
        if name is None and len(blocks) == 1:
            (name,) = blocks
        if name not in blocks:
            wanted = f"one of the blocks {sorted(blocks)}, as in guide.block({min(blocks)!r})"
            error = SeveralBlocksError if name is None else ValueError
            raise error(f"name must be {wanted}, got {name!r}")
        return BlockEstimate(self, blocks[name])

    def _known_blocks(self) -> dict[str, BlockSites]:
        return self._sites

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
        """What there is to say of the rows of a block, by name."""
        _, converged, num_iter, residual = root.solution
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

    def live_medians(self) -> dict[str, Tensor]:
        """The medians of all latents upstream of a block, differentiable in their parameters."""
        self._claim()
        self._refuse_moved_parameters()
        medians: dict[str, Tensor] = {}
        for part in self._earlier_parts():
            medians.update(live_medians(part))
        return {**medians, **self._live_global_medians()}

    def _live_global_medians(self) -> dict[str, Tensor]:
        return live_medians(self.global_guide) if self._has_globals else {}

    @pyro_method
    def global_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The medians of all latents that are not a block's, by site name."""
        with poutine.block():
            return self.global_guide.median(*args, **kwargs) if self._has_globals else {}

    def _upstream_medians(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        medians: dict[str, Tensor] = {}
        for part in self._earlier_parts():
            with poutine.block():
                medians.update(part.median(*args, **kwargs))
        self._earlier_values = {}
        return {**medians, **self.global_medians(*args, **kwargs)}

    # ---------------------------------------------------------- as a part of an AutoGuideList

    def _update_master(self, master_ref: Any) -> None:
        self.master = master_ref
        # A list forgets its model when it is pickled.
        if master_ref()._model is not None:
            self._whole_model = master_ref()._model
        claim_when_called(master_ref())
        for part in self._earlier_parts():
            claim_when_called(part)
            if self._remember not in part._forward_hooks.values():
                part.register_forward_hook(self._remember)

    def _earlier_parts(self) -> list[AutoGuide]:
        parts = [] if self.master is None else list(self.master())
        return parts[: parts.index(self)] if self in parts else parts

    def _remember(self, part: AutoGuide, args: Any, values: dict[str, Tensor]) -> None:
        """Keeps what an earlier part of the list sampled: latents may depend on it."""
        self._earlier_values.update(values)

    def _existing_plates(self) -> dict[str, Any]:
        plates = dict(getattr(self.global_guide, "plates", None) or {})
        if self.master is not None:
            plates.update(self.master().plates)
        return plates

    # ---------------------------------------------------------------- saving

    def _named_blocks(self) -> dict[str, ExpFamPCA]:
        return {name: sites.block for name, sites in self._sites.items()}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        saved = dict(self._unloaded_state or {})
        if not saved and self._trained_guide() is self:
            saved = dict(block_parameters(self._named_blocks()))
        for name, value in saved.items():
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        is_unseen = self.prototype_trace is None and self._trained_guide() is self
        if is_unseen and not self._see_without_data():
            # Until the first call shows the structure.
            self._unloaded_state = take_out(state_dict, prefix, (PREFIX, GLOBALS))
            return
        saved = take_out(state_dict, prefix, (PREFIX,))
        blocks = self._named_blocks() if self._trained_guide() is self else {}
        load_block_parameters(blocks, saved, prefix, missing_keys, unexpected_keys, error_msgs)
        self._begin_training()
        self._trained_on = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _see_without_data(self) -> bool:
        """Looks at the structure of the model, if it takes no observations to show it."""
        block = self.model
        if not isinstance(block, ExpFamPCA) or block.family.differs_by_row:
            return False
        self._see(one_row(block))
        return True

    def __getattr__(self, name: str) -> Any:
        # Python comes here when a property has raised an AttributeError, whose text says more
        # than one that there is no such attribute.
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        # Unlike other guides this one runs its model, and keeps it.
        state = {**self.__dict__, "master": None, "_earlier_values": {}}
        state["_warm_start"] = WarmStart()
        if self.prototype_trace is not None:
            # Weak references of Pyro's parameter store, which makes them anew.
            for site in self.prototype_trace.nodes.values():
                if isinstance(site.get("value"), Tensor):
                    vars(site["value"]).pop("unconstrained", None)
            # The part of the model that a guide of a list was made from, which may be a closure
            # that cannot be pickled, has served its purpose.
            state["_model"] = self._whole_model
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # As at construction, it makes its own plates.
        self.global_guide.master = None
