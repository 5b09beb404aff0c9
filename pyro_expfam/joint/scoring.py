"""Fitting a table: latents are solved for, coefficients take preconditioned quasi-Newton steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.limits import check_positive, check_size
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.objective import ColumnSums, Objective
from pyro_expfam.joint.quasi_newton import QuasiNewton
from pyro_expfam.joint.spectral import spectral_start

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that the gradient promises (Armijo)."""

SHORTEST = 2.0**-20

INTERRUPTED = "it was interrupted by Ctrl-C"

PATIENCE = 4
"""Trials of a quasi-Newton direction before the Fisher scoring direction replaces it."""


class Sweep(NamedTuple):
    """The state of the fit after a sweep over the table.

    Attributes:
        number: the number of sweeps so far.
        objective: the objective at the coefficients, up to the constant that the problem leaves
            out. It is minus the log density of observations, latents and coefficients, or minus the
            log evidence and log prior.
        decrement: twice the decrease that a full step of Fisher scoring promises.
        seconds: the time since the fit began.
    """

    number: int
    objective: float
    decrement: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Fit:
    """How a fit went.

    Attributes:
        sweeps: every sweep, the start first; objectives never increase. The last objective is
            evaluated in double precision.
        latents: the latents of the rows, ``(N, l)``. If the fit converged, they are solved for to
            the tolerance of the solver. If a limit ended the fit, they may be less exact, in
            proportion to the coefficients.
        converged: whether both the objective and its gradient came to rest.
        reason: why the fit ended, in words.
        chosen: whether the user ended the fit before it converged: by the callback, by ``max_time``
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
        """A short form, without the list of sweeps."""
        return (
            f"Fit(converged={self.converged}, objective={self.objective:.8g}, "
            f"sweeps={self.sweeps[-1].number}, seconds={self.seconds:.3g}, reason={self.reason!r})"
        )


class _End(NamedTuple):
    """How a fit ended, as in :class:`Fit`."""

    converged: bool
    reason: str
    chosen: bool = False


class _State(NamedTuple):
    coefficients: Tensor
    z: Tensor
    columns: ColumnSums
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
    earlier: tuple[Sweep, ...] = (),
    keep: Callable[[Sequence[Sweep], Tensor], object] | None = None,
) -> tuple[Tensor, Fit]:
    r"""Minimises an objective of the loading and intercept of a table; it never increases.

    The latents are eliminated: every trial solves for them, starting from the last ones. Under the
    joint objective the tolerance tightens as the coefficients have less to gain, and it is the
    tolerance of the solver before the fit may converge. Under the evidence it is the tolerance of
    the solver throughout. The objective is then a function of the coefficients alone. They take
    quasi-Newton steps, preconditioned by the information of each feature, and then the best change
    of basis. A step that does not decrease the objective enough is halved.

    Args:
        problem: the objective: table and priors, as a :class:`JointProblem` or a
            :class:`~pyro_expfam.coefficients.EvidenceProblem`.
        latent_dim: the number of latents ``l``.
        solver: the solver for the latents. Its tolerance is the tightest that the fit uses.
        max_sweeps: the most evaluations of the whole table.
        tol: the fit stops when the next step promises less than this part of the objective and the
            last step brought less.
        max_time: seconds after which no further sweep begins.
        callback: called with every :class:`Sweep`; a result that is true ends the fit.
        start: coefficients ``(d, l + 1)``; by default from the spectrum of the residuals.
        start_again: returns new starting coefficients. It is called if no step leads on before the
            fit has converged, and the better of the two ends is kept.
        earlier: the sweeps of an earlier fit that ended at ``start``; its sweeps and seconds count.
        keep: called after every sweep with all sweeps and the coefficients.

    Returns:
        Coefficients ``(d, l + 1)``, and a :class:`Fit` with the latents. After Ctrl-C these are
        the best so far.

    Raises:
        ValueError: if ``max_sweeps`` is not a whole number of at least 1, ``tol`` is not positive
            and finite, or ``max_time`` is not positive.

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
    begin = time.perf_counter() - (earlier[-1].seconds if earlier else 0.0)
    limits = _Limits(max_sweeps, tol, max_time, callback, begin, earlier=earlier, keep=keep)
    first = spectral_start(problem, latent_dim) if start is None else start.clone()
    first = problem.centred(first)
    found = _descend(problem, latent_dim, first, solver, limits)
    found = found[0], replace(found[1], sweeps=earlier[:-1] + found[1].sweeps)
    stuck = found[1]
    is_over = stuck.converged or stuck.chosen or stuck.sweeps[-1].number >= max_sweeps
    if start_again is None or is_over:
        return _with_exact_objective(problem, *found)
    limits = limits._replace(first=stuck.sweeps[-1].number + 1, earlier=())
    try:
        again = _descend(problem, latent_dim, start_again(), solver, limits)
    except KeyboardInterrupt:
        again = found[0], replace(stuck, reason=INTERRUPTED, chosen=True)
    # A comparison with NaN is False.
    better = found if stuck.objective < again[1].objective else again
    return _with_exact_objective(problem, *better)


def _with_exact_objective(problem: Objective, coefficients: Tensor, fit: Fit) -> tuple[Tensor, Fit]:
    """The same fit with an objective that has been evaluated in double precision at its end.

    Sums over the entries of large counts have an error in single precision. Most of it is the same
    in every sweep, so that all objectives move by the same amount.
    """
    if coefficients.dtype == torch.float64 or not math.isfinite(fit.objective):
        return coefficients, fit
    error = fit.objective - problem.double().value(coefficients.double(), fit.latents.double())
    if not math.isfinite(error):
        return coefficients, fit
    sweeps = tuple(s._replace(objective=s.objective - error) for s in fit.sweeps)
    return coefficients, replace(fit, sweeps=sweeps)


class _Limits(NamedTuple):
    """The limits of a fit, the user's callback, the time it began, the first sweep's number.

    ``earlier`` and ``keep`` are as in :func:`fit_coefficients`.
    """

    max_sweeps: int
    tol: float
    max_time: float | None
    callback: Callable[[Sweep], object] | None
    begin: float
    first: int = 0
    earlier: tuple[Sweep, ...] = ()
    keep: Callable[[Sequence[Sweep], Tensor], object] | None = None


def check_limits(max_sweeps: int, tol: float, max_time: float | None) -> None:
    """Raises an error unless these are valid limits of a fit."""
    check_size("max_sweeps", max_sweeps)
    check_positive("tol", tol)
    if max_time is not None and not float(max_time) > 0:
        raise ValueError(f"max_time must be a positive number of seconds or None, got {max_time!r}")


def _descend(
    problem: Objective, latent_dim: int, coefficients: Tensor, solver: Solver, limits: _Limits
) -> tuple[Tensor, Fit]:
    """Minimises an objective from given coefficients."""
    num_rows, last = problem.table.num_rows, limits.earlier[-1] if limits.earlier else None
    z = coefficients.new_zeros(problem.table.num_own_rows, latent_dim)
    share, exact = problem.latent_share, _as_exact_as_needed(solver, 0.0, num_rows, z)
    promised = num_rows if last is None else last.decrement
    first = _as_exact_as_needed(solver, share * promised, num_rows, z)
    state = _evaluate(problem, coefficients, z, first)
    number = limits.first if last is None else last.number
    memory, sweeps = QuasiNewton(), [_sweep(number, problem, state, limits.begin)]
    gain = float("inf")
    try:
        while True:
            if limits.keep is not None:
                limits.keep(sweeps, state.coefficients)
            at_rest = _is_at_rest(sweeps[-1], gain, limits.tol)
            ended = _reason_to_end(sweeps[-1], limits)
            if at_rest and state.solver == exact:
                rest = f"the objective came to rest within {limits.tol:g} of itself"
                ended = _End(True, rest)
            if ended is not None:
                break
            found, tried = None, 0
            if not at_rest:
                enough = _as_exact_as_needed(solver, share * sweeps[-1].decrement, num_rows, z)
                left = limits.max_sweeps - sweeps[-1].number
                found, tried = _search(problem, state, memory, enough, left)
                if found is None and tried >= left:
                    ended = _end_of_sweeps(limits)
                    break
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
        # After hours of waiting, the user wants what was found so far.
        ended = _End(False, INTERRUPTED, chosen=True)
    return state.coefficients, Fit(tuple(sweeps), state.z, *ended)


def _evaluate(problem: Objective, coefficients: Tensor, z: Tensor, solver: Solver) -> _State:
    """The state at some coefficients, with latents solved for from ``z``, in place."""
    return _State(coefficients, z, problem.columns(coefficients, z, solver), solver)


def _with_exact_latents(problem: Objective, state: _State, exact: Solver) -> _State:
    """The same coefficients, with latents to the tolerance of the solver."""
    found = _evaluate(problem, state.coefficients, state.z.clone(), exact)
    # Solving never increases the objective: an increase is rounding.
    objective = min(found.columns.objective, state.columns.objective)
    return found._replace(columns=found.columns._replace(objective=objective))


def _as_exact_as_needed(solver: Solver, decrement: float, num_rows: int, z: Tensor) -> Solver:
    """The solver with the loosest tolerance that costs no more than a decrement.

    The distance of each row's latents from the root is measured in posterior standard deviations.
    Half the sum of the squared distances is what the joint objective loses, as half the decrement
    is what it loses to the coefficients.
    """
    return solver.at(math.sqrt(max(decrement, 0.0) / num_rows), z.dtype)


def _sweep(number: int, problem: Objective, state: _State, begin: float) -> Sweep:
    columns = state.columns
    step = _scoring_step(problem, state)(columns.gradient)
    decrement = float((columns.gradient * step).sum())
    seconds = problem.table.processes.of_first(lambda: time.perf_counter() - begin)
    return Sweep(number, columns.objective, decrement, seconds)


def _is_at_rest(last: Sweep, gain: float, tol: float) -> bool:
    small = tol * (1 + abs(last.objective))
    return math.isfinite(small) and last.decrement <= small and gain <= small


def _reason_to_end(last: Sweep, limits: _Limits) -> _End | None:
    """Why the fit ends before it has converged, or None while it may go on."""
    if limits.callback is not None and limits.callback(last):
        return _End(False, "the callback said so", chosen=True)
    if last.number >= limits.max_sweeps:
        return _end_of_sweeps(limits)
    if limits.max_time is not None and last.seconds >= limits.max_time:
        return _End(False, f"max_time, {limits.max_time:g} seconds, is over", chosen=True)
    return None


def _end_of_sweeps(limits: _Limits) -> _End:
    return _End(False, f"max_sweeps, {limits.max_sweeps}, have been taken")


def _reason_of_no_step(last: Sweep, dtype: torch.dtype) -> _End:
    """The end of a fit in which no step decreases the objective: it may have converged."""
    if not math.isfinite(last.objective):
        return _End(False, f"the objective is {last.objective} and no step leads away from there")
    if last.decrement <= torch.finfo(dtype).eps ** 0.5 * (1 + abs(last.objective)):
        return _End(True, "no step decreases the objective beyond rounding")
    return _End(
        False,
        f"no step decreases the objective, although {last.decrement / 2:.3g} are promised",
    )


def _search(
    problem: Objective, state: _State, memory: QuasiNewton, solver: Solver, most: int
) -> tuple[_State | None, int]:
    """The state after a step that decreases the objective, and the number of trials.

    Each trial evaluates the whole table; there are ``most`` at most.
    """
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
            if tried == most:
                return None, tried
            length /= 2
            if tried == PATIENCE:
                break
    return None, tried


def _directions(
    gradient: Tensor, scoring_step: Callable[[Tensor], Tensor], memory: QuasiNewton
) -> Iterator[Tensor]:
    """The quasi-Newton direction, then the Fisher scoring direction if that one fails."""
    direction = memory.direction(gradient, scoring_step)
    if float((gradient * direction).sum()) < 0:
        yield direction
    memory.forget()
    yield memory.direction(gradient, scoring_step)


def _scoring_step(problem: Objective, state: _State) -> Callable[[Tensor], Tensor]:
    """The function from a gradient to minus the step of Fisher scoring."""
    return partial(problem.scoring_step, state.coefficients, _factor(state.columns))


def _factor(columns: ColumnSums) -> Tensor:
    """Cholesky factors of the information of every feature."""
    information = columns.information
    size = information.diagonal(dim1=-2, dim2=-1).mean(-1)
    # Under a flat prior a feature without variance has no information of its own.
    smallest = torch.finfo(information.dtype).eps * 16 * size + torch.finfo(size.dtype).tiny ** 0.5
    eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    factor, _ = torch.linalg.cholesky_ex(information + smallest[:, None, None] * eye)
    return factor
