"""Fitting the coefficients of a block to a table, and what the block keeps of the fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide
from torch import Tensor

from pyro_expfam.deq.processes import Sums
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence.adaptive import Nodes
from pyro_expfam.families.kinds import Kind, take
from pyro_expfam.guides.fit_checkpoint import FitCheckpoint, Kept
from pyro_expfam.guides.fit_progress import FitProgress
from pyro_expfam.guides.quadrature_warning import more_nodes, warn_of_coarse_table
from pyro_expfam.guides.runaway_warning import warn_of_runaway_table
from pyro_expfam.guides.table_objective import learnt_of, row_effect_of
from pyro_expfam.joint import (
    Fit,
    LearntParametersProblem,
    NoiseScaleProblem,
    Objective,
    ScaledCoefficients,
    Sweep,
    Table,
    fit_coefficients,
)
from pyro_expfam.joint.account import INTERRUPTED, NO_STEP, RAN_AWAY
from pyro_expfam.joint.rounding import warn_of_rounding
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.table import TableRows
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.interrupts import Interrupts
from pyro_expfam.runtime.progress import check_progress
from pyro_expfam.runtime.torch_threads import one_thread
from pyro_expfam.user_warning import warn_user

ENTRIES_OF_ONE_THREAD = 1 << 16
"""Entries of tables that one thread fits as quickly as several, or more quickly."""

NO_LOADING = 1e-3
"""Entries of a loading below this leave every linear predictor as it is."""


def coefficient_parameters(block: ExpFamPCA, global_guide: AutoGuide) -> tuple[Tensor, ...]:
    """The parameters of loading, intercept and coefficients of covariates that SVI trains.

    A block without covariates has the first two alone.
    """
    found = []
    for name in block.coefficient_sites:
        if name not in block._pyro_samples:
            found.append(getattr(block, name))
        elif isinstance(global_guide, AutoDelta):
            found.append(attrgetter(block.site_name(name))(global_guide))
        else:
            raise ValueError(
                "fit finds point estimates, and wants a global_guide that is an AutoDelta; got "
                f"{type(global_guide).__name__}: train with SVI in its place"
            )
    return tuple(found)


def joined_coefficients(parameters: Sequence[Tensor]) -> Tensor:
    """Loading, intercept and coefficients of covariates side by side, ``(d, l + 1 + p)``."""
    loading, intercept, *others = parameters
    return torch.cat([loading, intercept[:, None], *others], 1)


@torch.no_grad()
def set_coefficients(parameters: Sequence[Tensor], coefficients: Tensor) -> None:
    """Sets the parameters of coefficients to the numbers of a fit, ``(d, l + 1 + p)``."""
    loading, intercept, *others = parameters
    size = loading.shape[1]
    loading.copy_(coefficients[:, :size])
    intercept.copy_(coefficients[:, size])
    for of_covariates in others:
        of_covariates.copy_(coefficients[:, size + 1 :])


def check_trained(*coefficients: Tensor) -> None:
    """An error unless training has left loading and intercept finite."""
    if not all(bool(x.isfinite().all()) for x in coefficients):
        raise ValueError(
            "guide must have a finite loading and intercept, got one that training has left "
            "without: it diverged. Make a new guide, and take guide.fit or a smaller step size"
        )


def fit_parameters(
    block: ExpFamPCA,
    problem: Objective,
    parameters: Sequence[Tensor],
    from_here: bool,
    solver: Solver,
    callback: Callable[[Sweep], object] | None,
    progress: bool | None,
    interrupts: Interrupts,
    checkpoint: FitCheckpoint | None = None,
    **limits: Any,
) -> Fit:
    """Sets the parameters of coefficients to the least value of an objective.

    Parameters of the family are set too if they are free in the objective. Ctrl-C on the way to
    the start leaves all of them as they are.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Sweep or None, got {callback!r}")
    start = None
    if from_here:
        start = joined_coefficients(parameters).detach()
        check_trained(start)
        effect, units = row_effect_of(block), problem.table.units
        start = start if effect is None else effect.beside(start, block.latent_dim)
        start = start.to(problem.table.like)
        start = start if units is None else units.to_units(start)
    kept = None if checkpoint is None else checkpoint.begin(problem, block.site_dim)
    if kept is not None:
        start = kept.place.theta
    if isinstance(problem, NoiseScaleProblem):
        problem, start = _start_of_noise_scale(block, problem, start, kept, solver)
    if isinstance(problem, LearntParametersProblem):
        problem, start = _start_of_parameters(block, problem, start, kept)
    if checkpoint is not None:
        checkpoint.of(problem)
    start_again = partial(_start_again, problem, block.site_dim, solver) if from_here else None
    processes = problem.table.processes
    line = _progress_of(problem.table, progress, limits["tol"])

    def leave_together() -> None:
        if any(processes.gather(interrupts.pressed)):
            raise KeyboardInterrupt

    leave_together()
    with line, _threads_for(problem.table):

        def report(sweep: Sweep) -> object:
            stop = None
            if processes.number == 0:
                line.show(sweep)
                stop = callback(sweep) if callback is not None else None
            reports = processes.gather((interrupts.pressed, bool(stop)))
            if any(pressed for pressed, _ in reports):
                raise KeyboardInterrupt
            return reports[0][1]

        coefficients, fit = fit_coefficients(
            problem,
            block.site_dim,
            solver,
            callback=report,
            start=start,
            start_again=start_again,
            earlier=() if kept is None else kept.sweeps,
            keep=None if checkpoint is None else checkpoint.keep,
            **limits,
        )
        if checkpoint is not None:
            checkpoint.write()
    if isinstance(problem, NoiseScaleProblem):
        coefficients = _set_noise_scale(block, problem, coefficients)
    if isinstance(problem, LearntParametersProblem):
        coefficients = _set_parameters(block, problem, coefficients)
    all_coefficients = coefficients
    if block.row_effect is not None:
        coefficients = _set_row_effect(block, coefficients)
    if problem.table.units is not None:
        coefficients = problem.table.units.from_units(coefficients)
    set_coefficients(parameters, coefficients)
    if processes.number == 0:
        _warn_unless_converged(coefficients, fit, _nodes_of(problem))
        _warn_of_no_loading(problem, coefficients)
    warn_of_runaway_table(problem, all_coefficients, fit.latents)
    if fit.converged:
        warn_of_coarse_table(problem, all_coefficients, fit.latents)
    if not isinstance(problem, NoiseScaleProblem | LearntParametersProblem) and not fit.chosen:
        warn_of_rounding(problem, all_coefficients, fit.latents, fit.objective, limits["tol"])
    if block.row_effect is not None:
        fit = replace(fit, latents=_in_natural_units(fit.latents, all_coefficients, block))
    return replace(fit, latents=fit.latents.to(block.latent_precision.dtype))


def _threads_for(table: Table) -> AbstractContextManager[None]:
    """As many threads as a table is worth: one for a small table on a processor.

    All processes of a fit take as many, since numbers that they have in common must have the same
    bits, and rounding may differ with the threads.
    """
    is_small = table.num_rows * table.num_predictors <= ENTRIES_OF_ONE_THREAD
    return one_thread() if is_small and table.like.device.type == "cpu" else nullcontext()


def _progress_of(table: Table, progress: bool | None, tol: float) -> FitProgress:
    """A line of progress in the first process, and none in the others."""
    check_progress(progress)
    drawn = progress if table.processes.number == 0 else False
    return FitProgress(drawn, table.num_rows, tol)


@torch.no_grad()
def _start_of_noise_scale(
    block: ExpFamPCA,
    problem: NoiseScaleProblem,
    start: Tensor | None,
    kept: Kept | None,
    solver: Solver,
) -> tuple[NoiseScaleProblem, Tensor]:
    """Where a fit that learns the scale of the noise starts."""
    if start is None:
        return problem.spectral_start(block.latent_dim, solver)
    scale = block.family_scale.detach() if kept is None else kept.place.of_family["scale"]
    scale = scale.to(start).expand(block.num_features)
    return problem.start_from(ScaledCoefficients(start, scale), solver)


@torch.no_grad()
def _start_of_parameters(
    block: ExpFamPCA, problem: LearntParametersProblem, start: Tensor | None, kept: Kept | None
) -> tuple[LearntParametersProblem, Tensor | None]:
    """Where a fit that learns parameters of the family starts; None if it has to look."""
    if kept is not None:
        problem = problem.around(kept.place.of_family)
        return problem, problem.coefficients_of(kept.place.theta, kept.place.of_family)
    if start is not None:
        return problem, problem.coefficients_of(start, block.family.parameters)
    for kind in block._known_family.kinds(block.num_features):
        for name, own in learnt_of(block, kind).items():
            if kind.family.is_unit(own) and own in kind.family.to_learn(kind.width):
                _start_unit(block, problem.table, kind, name, own)
    problem.table.family = block.family
    return problem.around(block.family.parameters), None


@torch.no_grad()
def _start_unit(block: ExpFamPCA, table: Table, kind: Kind, name: str, own: str) -> None:
    """Sets a learnt unit of some columns to where their observations suggest."""

    def of_rows(place: slice, rows: TableRows) -> Sums:
        del place
        y, weights = take(rows.y, kind.predictors), torch.ones_like(rows.y)
        if rows.weights is not None:
            weights = rows.weights.expand(rows.y.shape)
        weights = take(weights, kind.predictors)
        count = weights.sum(0)
        return count, count * kind.family.starts_from(y, weights)[own].square()

    count, squares = table.sum(of_rows)
    if getattr(block, f"family_{name}").dim() == 0:
        count, squares = count.sum(), squares.sum()
    start = torch.where(count > 0, (squares / count).sqrt(), 1.0)
    setattr(block, f"family_{name}", start)


@torch.no_grad()
def _set_parameters(
    block: ExpFamPCA, problem: LearntParametersProblem, coefficients: Tensor
) -> Tensor:
    """Sets the learnt parameters of a block's family, and returns all other coefficients."""
    theta, free = problem.parts(coefficients)
    values = problem.values(free)
    for x in problem.parameters:
        setattr(block, f"family_{x.name}", values[x.name][0] if x.is_shared else values[x.name])
    problem.table.family = block.family
    return theta


@torch.no_grad()
def _set_row_effect(block: ExpFamPCA, coefficients: Tensor) -> Tensor:
    """Sets the standard deviation of row effects if it is learnt; returns the other coefficients.

    Args:
        block: the block.
        coefficients: ``(d, l + 1 + p)``, with the loading of the effect last among the ``l``.
    """
    place = block.latent_dim
    if block.learns_row_effect:
        precision: Any = block.latent_precision
        # The evidence is the same under an effect of the other sign.
        block.row_effect_scale = coefficients[0, place].abs() / precision.sqrt()
    return torch.cat([coefficients[:, :place], coefficients[:, place + 1 :]], 1)


def _in_natural_units(z: Tensor, coefficients: Tensor, block: ExpFamPCA) -> Tensor:
    """Latents of a fit ``(N, l)`` whose last one is the row effect as it is added."""
    effect = z[:, -1:] * coefficients[0, block.latent_dim]
    return torch.cat([z[:, :-1], effect], 1)


@torch.no_grad()
def _start_again(problem: Objective, latent_dim: int, solver: Solver) -> Tensor:
    """The start of a second attempt, where no step leads on from what the guide had learnt."""
    if isinstance(problem, LearntParametersProblem):
        return problem.spectral_start(latent_dim)
    if not isinstance(problem, NoiseScaleProblem):
        return spectral_start(problem, latent_dim)
    other, start = problem.spectral_start(latent_dim, solver)
    return problem.coefficients_of(other.natural(start))


@torch.no_grad()
def _set_noise_scale(block: ExpFamPCA, problem: NoiseScaleProblem, coefficients: Tensor) -> Tensor:
    """Sets the scale of a block's noise, and returns the coefficients in the same units."""
    natural = problem.natural(coefficients)
    block.family_scale = natural.scale if problem.by_column else natural.scale[0]
    problem.table.family = block.family
    collapsed = problem.is_collapsed(natural.scale).nonzero().flatten().tolist()
    if collapsed:
        which = f"of columns {collapsed}" if problem.by_column else "of the noise"
        warn_user(
            f"the scale {which} has run to less than a thousandth of the observations' standard "
            "deviation: the latents explain them exactly. Take fewer latents, one scale for the "
            "table, or a known scale",
            ConvergenceWarning,
        )
    return natural.coefficients


def _nodes_of(problem: Objective) -> Nodes | None:
    """The nodes of quadrature of an objective, if it is an evidence by quadrature."""
    known = getattr(problem, "known", problem)
    nodes: Nodes | None = getattr(known, "nodes", None)
    return nodes


def _more_nodes(nodes: Nodes | None, reason: str) -> str:
    """Advice where the rule is too coarse for its value and gradient to agree."""
    if not isinstance(nodes, int) or not reason.startswith(NO_STEP):
        return ""
    return (
        f". The value and the gradient of quadrature agree up to its error, which {nodes} nodes "
        f"leave too large: take more, as by LaplaceEvidence(nodes={more_nodes(nodes)})"
    )


def _warn_unless_converged(coefficients: Tensor, fit: Fit, nodes: Nodes | None = None) -> None:
    """Warns of a fit that did not converge, unless the user has chosen its end."""
    category: type[Warning] = ConvergenceWarning
    if fit.reason == RAN_AWAY:
        # A warning of what has run away follows.
        return
    if not (math.isfinite(fit.objective) and bool(coefficients.isfinite().all())):
        message = (
            f"has ended at the objective {fit.objective:g}, because {fit.reason}: natural "
            "parameters have overflowed. Look for entries, offsets and weights of unusual size"
        )
    elif fit.reason == INTERRUPTED:
        # This is no fault, but the user wants to know what the guide has now.
        category = UserWarning
        message = f"has ended early, because {fit.reason}. The guide has the best of its sweeps"
    elif fit.converged or fit.chosen:
        return
    else:
        message = (
            f"has not converged, because {fit.reason}. The guide has the best of its sweeps, and "
            f"another fit goes on from there{_more_nodes(nodes, fit.reason)}"
        )
    warn_user(f"the fit {message}", category)


def _warn_of_no_loading(problem: Objective, coefficients: Tensor) -> None:
    """Warns of a loading of zero under a loss that is not convex, where it may be a saddle."""
    largest = float(problem.split(coefficients).loading.abs().max())
    if not problem.table.family.is_convex and largest < NO_LOADING:
        warn_user(
            f"the fit has ended at a loading of zero (largest entry {largest:.2g}). Under "
            f"{problem.table.family}, whose loss is not convex, that may be a saddle from which no "
            "step leads on: start from another loading, or take a link that is not flat at zero",
            ConvergenceWarning,
        )
