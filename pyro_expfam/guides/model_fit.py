"""Training all parameters of a model and its guide by a quasi-Newton method."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.guides.coefficient_guide import trained_part
from pyro_expfam.guides.fit_progress import FitProgress
from pyro_expfam.guides.model_checks import check_tables
from pyro_expfam.guides.model_start import start_blocks
from pyro_expfam.guides.quadrature_warning import warn_of_coarse_roots
from pyro_expfam.guides.runaway_warning import have_run_away, warn_of_runaway_roots
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.table_objective import refuse_free_columns
from pyro_expfam.guides.unseen_answers import LearntAnswers
from pyro_expfam.guides.warm_start import WarmStart
from pyro_expfam.joint import Fit, Sweep
from pyro_expfam.joint.account import INTERRUPTED, RAN_AWAY
from pyro_expfam.joint.quasi_newton import QuasiNewton
from pyro_expfam.losses import LaplaceEvidence, at_mode
from pyro_expfam.models.annotations import is_enumerated
from pyro_expfam.user_warning import warn_user

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that its slope promises (Armijo's rule)."""

FIRST_STEP = 0.1
"""The length of the first step, in the norm of the parameters, before any curvature is known."""

LONGEST = 0.5
"""The longest step, as a part of the norm of the parameters plus one: further away a model may
overflow, or take long to solve."""

SHORTEST = 1e-10
"""Where so short a step brings no decrease, none will."""

TINY = 1e-30
"""A norm below this is zero."""

SWEEPS_BETWEEN_CHECKS = 10
"""A fit looks in every tenth sweep whether the evidence to second order still holds."""

ROUNDING = 4.0
"""The objective is a sum, and is known to about this many units in its last place."""

Objective = Callable[[], Tensor]
"""The objective as a function of the present values of parameters, differentiable in them."""


class _LimitReached(Exception):
    """Ends a fit.

    Args:
        reason: why.
        chosen: whether the user has chosen the end.
    """

    def __init__(self, reason: str, chosen: bool) -> None:
        super().__init__(reason)
        self.reason, self.chosen = reason, chosen


class _Memory:
    """The directions of limited-memory BFGS, scaled by the last step."""

    def __init__(self) -> None:
        self._pairs = QuasiNewton()
        self._scale: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no step is remembered: the direction is the gradient's."""
        return self._scale is None

    def direction(self, place: Tensor, gradient: Tensor) -> Tensor:
        """The direction from a place."""
        scale = self._scale
        if scale is None:
            scale = FIRST_STEP * (1 + float(place.norm())) / max(float(gradient.norm()), TINY)
        return self._pairs.direction(gradient, lambda q: scale * q)

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Learns from a step and the change of the gradient along it."""
        self._pairs.remember(step, change)
        curvature = float((step * change).sum())
        if curvature > 0:
            self._scale = curvature / float(change.square().sum())


class ModelFit:
    """Minimises an objective over parameters by limited-memory BFGS.

    The objective never increases from one sweep to the next. The parameters always have the values
    of the last sweep, so that a fit may end at any time.

    Args:
        objective: the objective.
        parameters: the parameters to train.
        max_sweeps: the most evaluations of the objective.
        tol: the fit stops when a step promises less than this part of the objective, and the last
            step gained less.
        max_time: seconds after which no further evaluation begins, or None.
        callback: called with each :class:`~pyro_expfam.joint.Sweep`; a true result ends the fit.
        starts: where the latents of rows are solved from. Under a loss that is not convex a row may
            have several roots: every trial starts from the root at the best parameters so far,
            whatever the trial before has found.
        begin: when the fit began, by the clock of :func:`time.perf_counter`.

    Source: Nocedal and Wright, *Numerical optimization* (2006), algorithms 3.1 and 7.4.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: list[Tensor],
        max_sweeps: int,
        tol: float,
        max_time: float | None,
        callback: Callable[[Sweep], object] | None,
        starts: WarmStart,
        begin: float,
    ) -> None:
        self._objective, self._parameters, self._starts = objective, parameters, starts
        self._max_sweeps, self._tol, self._max_time = max_sweeps, tol, max_time
        self._callback = callback
        self._sweeps: list[Sweep] = []
        self._evaluations = 0
        self._rounding = 0.0
        self._begin = begin

    def run(self) -> Fit:
        """Trains; returns how it went."""
        start = self._read()
        self._best, self._best_starts = start, self._starts.kept()
        try:
            converged, reason, chosen = self._descend(start)
        except _LimitReached as end:
            converged, reason, chosen = False, end.reason, end.chosen
        except KeyboardInterrupt:
            converged, reason, chosen = False, INTERRUPTED, True
        self._write(self._best)
        self._starts.go_back(self._best_starts)
        return Fit(tuple(self._sweeps), torch.empty(0), converged, reason, chosen)

    def _descend(self, start: Tensor) -> tuple[bool, str, bool]:
        """Whether the fit has converged, why it has ended, and whether the user has ended it."""
        place = start
        value, gradient = self._evaluate(place)
        self._best_starts = self._starts.kept()
        memory, gain = _Memory(), math.inf
        while True:
            direction = memory.direction(place, gradient)
            slope = float((direction * gradient).sum())
            self._end_of_sweep(value, -slope)
            small = max(self._tol, self._rounding) * abs(value)
            if -slope <= small and gain <= small:
                return True, "no step promises a further gain", False
            found = self._search(place, value, direction, slope)
            if found is None and memory.is_empty:
                return gain <= small, "no step brings a further gain", False
            if found is None:
                # What the memory knows may be wrong here: begin anew along the gradient.
                memory, gain = _Memory(), 0.0
                continue
            trial, there, gradient_there = found
            memory.remember(trial - place, gradient_there - gradient)
            gain = value - there
            self._best = place = trial
            self._best_starts = self._starts.kept()
            value, gradient = there, gradient_there

    def _search(
        self, place: Tensor, value: float, direction: Tensor, slope: float
    ) -> tuple[Tensor, float, Tensor] | None:
        """Where along a direction the objective decreases, with its value and gradient there."""
        size, whole = 1 + float(place.norm()), max(float(direction.norm()), TINY)
        length, shortest = min(1.0, LONGEST * size / whole), SHORTEST * size / whole
        # A decrease below the rounding of the objective cannot be seen.
        shortest = max(shortest, self._rounding / ROUNDING * abs(value) / max(-slope, TINY))
        while length > shortest:
            self._refuse_beyond_limits()
            trial = place + length * direction
            there, gradient = self._evaluate(trial)
            if there <= value + ENOUGH * length * slope:
                return trial, there, gradient
            self._starts.go_back(self._best_starts)
            length /= 2 if math.isfinite(there) else 10
        return None

    def _evaluate(self, place: Tensor) -> tuple[float, Tensor]:
        self._evaluations += 1
        self._write(place)
        # A step that is too long may leave the domain of a distribution: its value is then NaN.
        with torch.enable_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="Encountered NaN")
            try:
                value = self._objective()
            except ValueError:
                if self._evaluations == 1:
                    raise
                # A step that is too long may reach a parameter that its family refuses.
                return math.inf, torch.zeros_like(place)
            self._rounding = ROUNDING * torch.finfo(value.dtype).eps
            found = torch.autograd.grad(value, self._parameters, allow_unused=True)
        gradient = [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(self._parameters, found, strict=True)
        ]
        flat = _flat(gradient)
        if not bool(flat.isfinite().all()):
            return math.inf, flat
        return float(value.detach()), flat

    def _end_of_sweep(self, value: float, decrement: float) -> None:
        seconds = time.perf_counter() - self._begin
        sweep = Sweep(self._evaluations, value, decrement, seconds)
        self._sweeps.append(sweep)
        if not math.isfinite(value):
            raise _LimitReached(f"the objective is {value}", False)
        if self._callback is not None and self._callback(sweep):
            raise _LimitReached("the callback has ended it", True)

    def _refuse_beyond_limits(self) -> None:
        if self._evaluations >= self._max_sweeps:
            raise _LimitReached(f"max_sweeps={self._max_sweeps} is reached", False)
        seconds = time.perf_counter() - self._begin
        if self._max_time is not None and seconds >= self._max_time:
            raise _LimitReached(f"max_time={self._max_time} is over", True)

    def _read(self) -> Tensor:
        return _flat([x.detach() for x in self._parameters])

    @torch.no_grad()
    def _write(self, place: Tensor) -> None:
        begin = 0
        for x in self._parameters:
            end = begin + x.numel()
            x.copy_(place[begin:end].view_as(x))
            begin = end


def fit_model(
    guide: StructuredGuide,
    loss: LaplaceEvidence | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    callback: Callable[[Sweep], object] | None,
    progress: bool | None,
    **limits: Any,
) -> Fit:
    """Trains all parameters of a model and its guide, as :meth:`DEQMAPGuide.fit` says.

    Args:
        guide: the guide.
        loss: as for the method.
        args: of the model.
        kwargs: of the model.
        callback: as for the method.
        progress: as for the method.
        **limits: ``max_sweeps``, ``tol`` and ``max_time``.
    """
    if loss is not None and not isinstance(loss, LaplaceEvidence):
        raise TypeError(
            "loss must be a pyro_expfam.LaplaceEvidence, or None for the joint MAP estimate, got "
            f"{type(loss).__name__}: train with SVI for any other"
        )
    begin = time.perf_counter()
    guide._see(*args, **kwargs)
    if loss is not None:
        _refuse_estimated_evidence(guide)
    trained = guide._trained_guide()
    part = trained_part(trained.global_guide)
    if trained._has_globals and not isinstance(part, AutoDelta):
        raise ValueError(
            "fit finds point estimates, and wants a global_guide that is an AutoDelta; got "
            f"{type(part).__name__}: train with SVI in its place"
        )
    groups = guide.group_roots(*args, **kwargs)
    check_tables(groups)
    if trained._is_untrained():
        start_blocks(guide, groups)
    if loss is None:
        _refuse_free_columns(guide)
    guide._begin_training()
    model = guide._whole_model[0]
    wanted: Any = _joint_density(guide, args, kwargs) if loss is None else loss
    # The joint density is a function of the mode, whatever the guide draws.
    of_guide = at_mode(guide) if loss is None else guide

    def objective() -> Tensor:
        value: Tensor = wanted.differentiable_loss(model, of_guide, *args, **kwargs)
        return value

    order = 1 if loss is None else loss.order
    may_run_away = _may_run_away(guide, loss)

    def has_run_away() -> bool:
        return have_run_away(guide.roots(*args, **kwargs), order)

    parameters = _parameters(trained, objective)
    with FitProgress(progress, None, limits["tol"]) as line:

        def report(sweep: Sweep) -> object:
            line.show(sweep)
            if may_run_away and sweep.number % SWEEPS_BETWEEN_CHECKS == 0 and has_run_away():
                raise _LimitReached(RAN_AWAY, False)
            return callback(sweep) if callback is not None else None

        fit = ModelFit(
            objective,
            parameters,
            callback=report,
            starts=guide._warm_start,
            begin=begin,
            **limits,
        ).run()
    roots = guide.roots(*args, **kwargs)
    if may_run_away and fit.converged and have_run_away(roots, order):
        fit = replace(fit, converged=False, reason=RAN_AWAY)
    warn_unless_converged(fit)
    if may_run_away:
        warn_of_runaway_roots(roots, order)
    if loss is not None and fit.converged:
        warn_of_coarse_roots(roots, loss.nodes)
    for root in roots:
        site = root.sites.labels
        names = trained._columns.of(site), trained._columns.categories_of(site)
        LearntAnswers(root.block, *names).warn_of_unseen(root.problem.y, root.problem.weights)
    return replace(fit, latents=torch.cat([root.latents for root in roots], -1))


def _may_run_away(guide: StructuredGuide, loss: LaplaceEvidence | None) -> bool:
    """Whether the approximation of the evidence that a loss takes has no bound."""
    if loss is None or loss.nodes is not None:
        return False
    blocks = guide._named_blocks().values()
    return loss.order == 2 or not all(block.family.is_convex for block in blocks)


def _refuse_free_columns(guide: StructuredGuide) -> None:
    """An error if columns have learnt parameters under which the joint density has no bound."""
    for block in guide._named_blocks().values():
        refuse_free_columns(block)


def _refuse_estimated_evidence(guide: StructuredGuide) -> None:
    """An error for a block whose evidence is an estimate, of which no step is certain to gain."""
    for sites in guide._sites.values():
        spec = sites.block.linear_map
        if spec is not None and spec.latent_dim > spec.dense_latents:
            raise ValueError(
                f"loss must be None for a linear_map with {spec.latent_dim:,} latents, more than "
                f"its dense_latents={spec.dense_latents}, whose evidence is a random estimate, got "
                "LaplaceEvidence: fit the joint MAP estimate, or train with SVI"
            )


def _joint_density(
    guide: StructuredGuide, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Trace_ELBO | TraceEnum_ELBO:
    """Minus the joint density, with discrete sites summed over where the model wants it."""
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        trace = poutine.trace(guide._whole_model[0]).get_trace(*args, **kwargs)
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    if not any(map(is_enumerated, sites)):
        return Trace_ELBO()
    dims = [frame.dim for site in sites for frame in site["cond_indep_stack"]]
    return TraceEnum_ELBO(max_plate_nesting=max(-dim for dim in dims if dim is not None))


def _parameters(guide: StructuredGuide, objective: Objective) -> list[Tensor]:
    """The parameters of guide and model, also those that the model names by ``pyro.param``."""
    found = {x.data_ptr(): x for x in guide._trainable().values() if x.requires_grad}
    # The first latents of a row may be at a saddle, where the normal around them does not exist.
    with (
        torch.enable_grad(),
        pyro.validation_enabled(False),
        poutine.trace(param_only=True) as capture,
    ):
        objective()
    for site in capture.trace.nodes.values():
        if site["type"] == "param":
            value: Any = site["value"]
            leaf = value.unconstrained()
            found.setdefault(leaf.data_ptr(), leaf)
    return list(found.values())


def warn_unless_converged(fit: Fit) -> None:
    """Warns of a fit that did not converge, unless the user has chosen its end."""
    if fit.converged or fit.chosen or fit.reason == RAN_AWAY:
        # A warning of loadings that have run away follows.
        return
    warn_user(
        f"the fit has not converged, because {fit.reason}. The guide has the best of its sweeps, "
        "and another fit goes on from there",
        ConvergenceWarning,
    )


def _flat(tensors: list[Tensor]) -> Tensor:
    """All numbers in one vector, ``(n, 1)``, in double precision."""
    return torch.cat([x.double().flatten() for x in tensors]).unsqueeze(-1)
