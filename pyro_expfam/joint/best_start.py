"""The coefficients from which a fit starts: the best of several, found on a sample of the rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from pyro_expfam.deq.processes import Processes
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.account import INTERRUPTED, Fit, Limits, Start, Sweep
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.latent_scale import at_scale_of_prior
from pyro_expfam.joint.learnt_parameters import LearntParametersProblem
from pyro_expfam.joint.learnt_starts import learnt_starts, num_learnt_starts
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.one_optimum import has_one_optimum
from pyro_expfam.joint.rare_columns import with_rare_columns
from pyro_expfam.joint.sampled_rows import samples_of
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.starts import default_num_starts, screened_starts

TOLERANCE, TOLERANCE_OF_LARGEST = 1e-5, 1e-7
"""Starts are compared when they are at rest within this part of the objective. The largest sample
is followed further: near a saddle steps bring little for dozens of sweeps, which cost less on a
sample than on the table."""

LARGE = 1.0
"""Rows are unlike a sample if with them the objective per row is larger by this part of it."""

Descend = Callable[[Objective, int, Tensor, Tensor | None, Solver, Limits], tuple[Tensor, Fit]]
"""Minimises an objective with so many latents from given coefficients, and latents if any."""


class Beginning(NamedTuple):
    """Where a fit begins.

    Attributes:
        coefficients: the coefficients, ``(d, l + 1 + p)``.
        z: latents to begin with, ``(N, l)``, or None.
        starts: the starts that led there.
        limits: the limits of the fit.
    """

    coefficients: Tensor
    z: Tensor | None
    starts: tuple[Start, ...]
    limits: Limits


def best_start(
    problem: Objective,
    latent_dim: int,
    solver: Solver,
    limits: Limits,
    num_starts: int | None,
    descend: Descend,
) -> Beginning:
    """Coefficients and latents to start from.

    Several starts are followed under the joint objective, and the best of them to where it comes to
    rest. Of a large table, samples of the rows serve for that: their optimum is about as far from
    the optimum of the table as the samples are small, and costs as little as they do. The evidence
    of rows that are unlike the sample is searched from the joint optimum of the whole table. Where
    parameters of the family are learnt, starts are followed on the whole table.

    Args:
        problem: the objective.
        latent_dim: the number of latents ``l``.
        solver: the solver for the latents.
        limits: the limits of the fit.
        num_starts: how many starts to take; None for as many as the table is worth, which is one
            where all minima are the same.
        descend: minimises an objective.
    """
    joint = problem.joint(latent_dim)
    is_over = _Over(limits, problem.table.processes)

    def refine(
        part: Objective,
        start: Tensor,
        z: Tensor | None,
        num_sweeps: int,
        tolerance: float = TOLERANCE,
    ) -> tuple[Tensor, Fit]:
        tol, most = max(limits.tol, tolerance), min(limits.max_sweeps, num_sweeps)
        quiet = limits._replace(
            callback=lambda _: is_over(), keep=None, earlier=(), tol=tol, max_sweeps=most
        )
        end, fit = descend(part, latent_dim, part.centred(start), z, solver, quiet)
        if fit.reason == INTERRUPTED:
            raise KeyboardInterrupt
        return end, fit

    if isinstance(problem, LearntParametersProblem):
        num_starts = num_starts or num_learnt_starts(problem)
        found = learnt_starts(problem, latent_dim, num_starts, partial(refine, problem), is_over)
        starts = tuple(x.start for x in found)
        return Beginning(found[0].coefficients, found[0].z, starts, is_over.limits)
    if not isinstance(joint, JointProblem):
        return Beginning(spectral_start(problem, latent_dim), None, (), limits)
    samples = [joint.of_sample(x) for x in samples_of(joint.table)]
    first, largest = (samples[0], samples[-1]) if samples else (joint, joint)
    num_starts = num_starts or _num_starts(joint, first)
    found = screened_starts(first, largest, latent_dim, num_starts, partial(refine, first), is_over)
    coefficients, z = found[0].coefficients, found[0].z
    # A start that has not been compared is followed on the largest sample alone.
    on_the_way: list[Objective] = [*(samples[-1:] if num_starts == 1 else samples)]
    if joint is not problem:
        on_the_way.append(problem.of_sample(samples[-1].table) if samples else joint)
    for part in on_the_way:
        if is_over():
            break
        # Other rows have other latents.
        z = z if z is not None and len(z) == part.table.num_own_rows else None
        is_largest = bool(samples) and part.table is samples[-1].table
        tolerance = TOLERANCE_OF_LARGEST if is_largest else TOLERANCE
        coefficients, z = at_scale_of_prior(part, coefficients, z, latent_dim, solver)
        coefficients, fit = refine(part, coefficients, z, limits.max_sweeps, tolerance)
        z = fit.latents
    is_at_joint_optimum = joint is not problem and not samples
    if samples:
        z = None
        if not is_over():
            coefficients = with_rare_columns(joint, samples[-1], coefficients, latent_dim, solver)
        is_of_joint = joint is problem or is_over()
        if not is_of_joint and _is_elsewhere(joint, samples[-1], coefficients, latent_dim, solver):
            coefficients, fit = refine(joint, coefficients, None, limits.max_sweeps)
            is_at_joint_optimum, z = True, fit.latents
    if is_at_joint_optimum and not is_over():
        coefficients, z = at_scale_of_prior(problem, coefficients, z, latent_dim, solver)
    rows = joint.table.num_rows / first.table.num_rows
    starts = tuple(x.start._replace(objective=rows * x.start.objective) for x in found)
    return Beginning(coefficients, z, starts, is_over.limits)


def _num_starts(problem: JointProblem, first: JointProblem) -> int:
    """How many starts to take of a table, of whose rows the smallest sample has some."""
    if has_one_optimum(problem):
        return 1
    return default_num_starts(first.table.num_rows * first.table.num_predictors)


def _is_elsewhere(
    problem: JointProblem,
    sample: JointProblem,
    coefficients: Tensor,
    latent_dim: int,
    solver: Solver,
) -> bool:
    """Whether rows outside of a sample are so unlike it that they are most of the objective.

    Under the evidence, latents of such rows are found with so little curvature that the way from
    there is endless. Under the joint objective it is short.
    """
    objectives = []
    for part in (problem, sample):
        z = coefficients.new_zeros(part.table.num_own_rows, latent_dim)
        objectives.append(part.columns(coefficients, z, solver).objective / part.table.num_rows)
    whole, expected = objectives
    # A comparison with NaN is False.
    return not whole - expected <= LARGE * (1 + abs(expected))


class _Over:
    """Whether a fit is over before its first sweep, which is the user's to say.

    The callback sees a sweep without a number and without an objective: objectives of different
    starts are not steps of one descent.

    Args:
        limits: the limits of the fit.
        processes: the processes that fit together.
    """

    def __init__(self, limits: Limits, processes: Processes) -> None:
        self._limits, self._processes = limits, processes
        self._is_over = False

    def __call__(self) -> bool:
        """Whether the callback or the time has ended the fit, now or before."""
        limits = self._limits
        seconds = self._processes.of_first(lambda: time.perf_counter() - limits.begin)
        if limits.callback is not None and not self._is_over:
            sweep = Sweep(limits.first, math.inf, math.inf, seconds)
            self._is_over = bool(limits.callback(sweep))
        return self._is_over or (limits.max_time is not None and seconds >= limits.max_time)

    @property
    def limits(self) -> Limits:
        """The limits of the sweeps to come, of which a callback that has said so allows none."""
        return self._limits._replace(callback=lambda _: True) if self._is_over else self._limits
