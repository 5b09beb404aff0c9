"""Fisher scoring of a table: rows solved, columns by preconditioned quasi-Newton steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.fisher_scoring import DEFAULT_TOLERANCE, FisherScoring
from pyro_expfam.deq.limits import check_positive, check_size
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.objective import Columns, Objective
from pyro_expfam.joint.quasi_newton import QuasiNewton
from pyro_expfam.joint.spectral import spectral_start

ENOUGH = 1e-4
"""The part of the decrease that the gradient promises which a step has to keep (Armijo)."""

SHORTEST = 2.0**-20

INTERRUPTED = "it was interrupted by Ctrl-C"

PATIENCE = 4
"""Tries of a quasi-Newton direction, before it gives way to that of Fisher scoring."""


class Sweep(NamedTuple):
    """Where the fit is after a sweep over the table.

    Attributes:
        number: of sweeps so far.
        objective: of the coefficients, up to the constant that the problem leaves out: minus the
            log density of observations, latents and coefficients, or minus the log evidence and
            prior.
        decrement: twice the decrease that a full step of Fisher scoring promises.
        seconds: since the fit began.
    """

    number: int
    objective: float
    decrement: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Fit:
    """How a fit went.

    Attributes:
        sweeps: every sweep, the start first; objectives never increase.
        latents: of the rows of the table, ``(N, l)``. A fit that converged has solved for them to
            the tolerance of the solver; in one that a limit ended they are as exact as its
            coefficients deserve.
        converged: whether both the objective and its gradient came to rest.
        reason: why it ended, in words.
        chosen: whether its user ended it before it had converged: by the callback, by ``max_time``
            or by Ctrl-C.
    """

    sweeps: tuple[Sweep, ...]
    latents: Tensor
    converged: bool
    reason: str
    chosen: bool = False

    @property
    def objective(self) -> float:
        """The last objective."""
        return self.sweeps[-1].objective

    @property
    def seconds(self) -> float:
        """Seconds from start to end."""
        return self.sweeps[-1].seconds

    def __repr__(self) -> str:
        """In short: sweeps are many."""
        return (
            f"Fit(converged={self.converged}, objective={self.objective:.8g}, "
            f"sweeps={self.sweeps[-1].number}, seconds={self.seconds:.3g}, reason={self.reason!r})"
        )


class _End(NamedTuple):
    """How a fit ended: what :class:`Fit` says of it."""

    converged: bool
    reason: str
    chosen: bool = False


class _State(NamedTuple):
    coefficients: Tensor
    z: Tensor
    columns: Columns
    solver: Solver


@torch.no_grad()
def fit_coefficients(
    problem: Objective,
    latent_dim: int,
    solver: Solver,
    max_sweeps: int = 500,
    tol: float = 1e-7,
    max_time: float | None = None,
    callback: Callable[[Sweep], object] | None = None,
    start: Tensor | None = None,
    start_again: Callable[[], Tensor] | None = None,
) -> tuple[Tensor, Fit]:
    r"""Minimises an objective of the loading and intercept of a table; it never increases.

    The latents are eliminated: at every trial they are solved for from where they were. Under the
    joint objective they are solved the more exactly the less there is to gain from the
    coefficients, and to the tolerance of the solver before the fit has converged; under the
    evidence always to that. What is left is a function of the coefficients. Its steps are
    quasi-Newton steps on top of the information of each feature, after the objective's best
    change of basis; a step that does not decrease the objective enough is halved.

    Args:
        problem: the objective: table and priors, as a :class:`JointProblem` or a
            :class:`~pyro_expfam.coefficients.EvidenceProblem`.
        latent_dim: the number of latents ``l``.
        solver: of the latents. The tolerance of Fisher scoring is the tightest of the fit.
        max_sweeps: the most evaluations of the whole table.
        tol: stops when a step promises less than this part of the objective and the last one
            brought less.
        max_time: seconds after which no further sweep begins.
        callback: called with every :class:`Sweep`; what is true of its result ends the fit.
        start: coefficients ``(d, l + 1)``; by default from the spectrum of the residuals.
        start_again: makes coefficients to start from once more where the fit has not converged
            and no step leads on; the better of the two ends counts.

    Returns:
        Coefficients ``(d, l + 1)``, and the account with the latents. After Ctrl-C they are the
        best so far.

    Raises:
        ValueError: if ``max_sweeps`` is no whole number of at least 1, ``tol`` not positive and
            finite, or ``max_time`` not positive.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 6)))
        >>> problem = pef.joint.JointProblem(
        ...     pef.joint.TableInMemory(pef.families.Poisson(), 6, torch.zeros(()), y),
        ...     latent_precision=torch.tensor(1.0),
        ...     loading_precision=1.0,
        ...     intercept_precision=0.0,
        ... )
        >>> coefficients, fit = pef.joint.fit_coefficients(problem, 2, pef.deq.FisherScoring())
        >>> coefficients.shape, fit.latents.shape, fit.converged
        (torch.Size([6, 3]), torch.Size([100, 2]), True)
    """
    check_limits(max_sweeps, tol, max_time)
    begin = time.perf_counter()
    limits = _Limits(max_sweeps, tol, max_time, callback, begin)
    first = spectral_start(problem, latent_dim) if start is None else start.clone()
    found = _descend(problem, latent_dim, first, solver, limits)
    stuck = found[1]
    is_over = stuck.converged or stuck.chosen or stuck.sweeps[-1].number >= max_sweeps
    if start_again is None or is_over:
        return found
    limits = limits._replace(first=stuck.sweeps[-1].number + 1)
    try:
        again = _descend(problem, latent_dim, start_again(), solver, limits)
    except KeyboardInterrupt:
        return found[0], replace(stuck, reason=INTERRUPTED, chosen=True)
    # A comparison with NaN is False.
    return found if stuck.objective <= again[1].objective else again


class _Limits(NamedTuple):
    """What ends a fit: limits, the user's callback, when it began and the number of its start."""

    max_sweeps: int
    tol: float
    max_time: float | None
    callback: Callable[[Sweep], object] | None
    begin: float
    first: int = 0


def check_limits(max_sweeps: int, tol: float, max_time: float | None) -> None:
    """An error unless these are limits of a fit."""
    check_size("max_sweeps", max_sweeps)
    check_positive("tol", tol)
    if max_time is not None and not float(max_time) > 0:
        raise ValueError(f"max_time must be a positive number of seconds or None, got {max_time!r}")


def _descend(
    problem: Objective, latent_dim: int, coefficients: Tensor, solver: Solver, limits: _Limits
) -> tuple[Tensor, Fit]:
    """Minimises an objective from given coefficients."""
    z = coefficients.new_zeros(problem.table.num_rows, latent_dim)
    share, exact = problem.latent_share, _as_exact_as_needed(solver, 0.0, z)
    state = _evaluate(problem, coefficients, z, _as_exact_as_needed(solver, share * len(z), z))
    memory, sweeps = QuasiNewton(), [_sweep(limits.first, problem, state, limits.begin)]
    gain = float("inf")
    try:
        while True:
            at_rest = _is_at_rest(sweeps[-1], gain, limits.tol)
            ended = _reason_to_end(sweeps[-1], limits)
            if at_rest and state.solver == exact:
                rest = f"the objective came to rest within {limits.tol:g} of itself"
                ended = _End(True, rest)
            if ended is not None:
                break
            found, tried = None, 0
            if not at_rest:
                enough = _as_exact_as_needed(solver, share * sweeps[-1].decrement, z)
                found, tried = _search(problem, state, memory, enough)
            if found is None and state.solver == exact:
                ended = _reason_of_no_step(sweeps[-1], z.dtype)
                break
            if found is None:
                found, tried = _with_exact_latents(problem, state, exact), tried + 1
            gain = state.columns.objective - found.columns.objective
            memory.remember(
                found.coefficients - state.coefficients,
                found.columns.gradient - state.columns.gradient,
            )
            last = _sweep(sweeps[-1].number + tried, problem, found, limits.begin)
            state = found
            sweeps.append(last)
    except KeyboardInterrupt:
        # Whoever has waited for hours wants what was found.
        ended = _End(False, INTERRUPTED, chosen=True)
    return state.coefficients, Fit(tuple(sweeps), state.z, *ended)


def _evaluate(problem: Objective, coefficients: Tensor, z: Tensor, solver: Solver) -> _State:
    """The state at some coefficients, with latents solved for from ``z``, in place."""
    return _State(coefficients, z, problem.columns(coefficients, z, solver), solver)


def _with_exact_latents(problem: Objective, state: _State, exact: Solver) -> _State:
    """The same coefficients, with latents to the tolerance of the solver."""
    found = _evaluate(problem, state.coefficients, state.z.clone(), exact)
    # Solving never increases the objective: what seems to is rounding.
    objective = min(found.columns.objective, state.columns.objective)
    return found._replace(columns=found.columns._replace(objective=objective))


def _as_exact_as_needed(solver: Solver, decrement: float, z: Tensor) -> Solver:
    """The solver with a tolerance that leaves no more than a decrement undone.

    Latents that are off by so many posterior standard deviations leave half the sum of their
    squares of the joint objective undone, as coefficients leave half the decrement.
    """
    if not isinstance(solver, FisherScoring):
        return solver
    tightest = DEFAULT_TOLERANCE[z.dtype] if solver.tol is None else solver.tol
    enough = math.sqrt(max(decrement, 0.0) / len(z))
    return replace(solver, tol=max(tightest, enough))


def _sweep(number: int, problem: Objective, state: _State, begin: float) -> Sweep:
    columns = state.columns
    step = _scoring_step(problem, state)(columns.gradient)
    decrement = float((columns.gradient * step).sum())
    return Sweep(number, columns.objective, decrement, time.perf_counter() - begin)


def _is_at_rest(last: Sweep, gain: float, tol: float) -> bool:
    small = tol * (1 + abs(last.objective))
    return math.isfinite(small) and last.decrement <= small and gain <= small


def _reason_to_end(last: Sweep, limits: _Limits) -> _End | None:
    """Why the fit ends without having converged, or None while it may go on."""
    if limits.callback is not None and limits.callback(last):
        return _End(False, "the callback said so", chosen=True)
    if last.number >= limits.max_sweeps:
        return _End(False, f"max_sweeps, {limits.max_sweeps}, have been taken")
    if limits.max_time is not None and last.seconds >= limits.max_time:
        return _End(False, f"max_time, {limits.max_time:g} seconds, is over", chosen=True)
    return None


def _reason_of_no_step(last: Sweep, dtype: torch.dtype) -> _End:
    """Whether a fit in which no step decreases the objective has converged, and in words."""
    if not math.isfinite(last.objective):
        return _End(False, f"the objective is {last.objective} and no step leads away from there")
    if last.decrement <= torch.finfo(dtype).eps ** 0.5 * (1 + abs(last.objective)):
        return _End(True, "no step decreases the objective beyond rounding")
    return _End(
        False, f"no step decreases the objective, where {last.decrement / 2:.3g} are promised"
    )


def _search(
    problem: Objective, state: _State, memory: QuasiNewton, solver: Solver
) -> tuple[_State | None, int]:
    """The state at the end of a step that decreases the objective, and how many were tried."""
    columns, scoring_step = state.columns, _scoring_step(problem, state)
    rounding = torch.finfo(state.z.dtype).eps * abs(columns.objective) / 16
    tried = 0
    for direction in _directions(columns.gradient, scoring_step, memory):
        slope, length = float((columns.gradient * direction).sum()), 1.0
        while length >= SHORTEST and -length * slope > rounding:
            trial, z = problem.change_basis(state.coefficients + length * direction, state.z)
            found = _evaluate(problem, trial, z, solver)
            tried += 1
            # A comparison with NaN is False.
            if found.columns.objective <= columns.objective + ENOUGH * length * slope:
                return found, tried
            length /= 2
            if tried == PATIENCE:
                break
    return None, tried


def _directions(
    gradient: Tensor, scoring_step: Callable[[Tensor], Tensor], memory: QuasiNewton
) -> Iterator[Tensor]:
    """The quasi-Newton direction, and that of Fisher scoring if it does not serve."""
    direction = memory.direction(gradient, scoring_step)
    if float((gradient * direction).sum()) < 0:
        yield direction
    memory.forget()
    yield memory.direction(gradient, scoring_step)


def _scoring_step(problem: Objective, state: _State) -> Callable[[Tensor], Tensor]:
    """What takes a gradient to a step of Fisher scoring."""
    return partial(problem.scoring_step, state.coefficients, _factor(state.columns))


def _factor(columns: Columns) -> Tensor:
    """Cholesky factors of the information of every feature."""
    information = columns.information
    size = information.diagonal(dim1=-2, dim2=-1).mean(-1)
    # Under a flat prior a feature without variance has no information of its own.
    smallest = torch.finfo(information.dtype).eps * 16 * size + torch.finfo(size.dtype).tiny ** 0.5
    eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    factor, _ = torch.linalg.cholesky_ex(information + smallest[:, None, None] * eye)
    return factor
