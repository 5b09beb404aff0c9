"""Fitting a table: latents are solved for, coefficients take preconditioned quasi-Newton steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.fisher_scoring import FisherScoring
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.account import (
    INTERRUPTED,
    RAN_AWAY,
    Account,
    End,
    Fit,
    FitEnded,
    Limits,
    Sweep,
    check_limits,
    reason_of_no_step,
)
from pyro_expfam.joint.best_start import Beginning, best_start
from pyro_expfam.joint.joint_descent import JointDescent, steps_in_memory
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.objective import ColumnSums, Objective
from pyro_expfam.joint.quasi_newton import QuasiNewton
from pyro_expfam.joint.spectral import spectral_start

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that the gradient promises (Armijo)."""

SHORTEST = 2.0**-20

STEPS_BETWEEN_CHECKS = 10
"""Steps after which a fit looks again whether its objective still holds."""

MOST_SOLVED_BY_PYTORCH = 1 << 15
"""The most entries of a table whose latents PyTorch solves for at the end of a fit. From roots in
single precision this takes milliseconds, and compilation of the kernel takes seven seconds."""

PATIENCE = 4
"""Trials of a quasi-Newton direction before the Fisher scoring direction replaces it."""


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
    max_sweeps: int = 2_000,
    tol: float = 1e-7,
    max_time: float | None = None,
    callback: Callable[[Sweep], object] | None = None,
    start: Tensor | None = None,
    start_again: Callable[[], Tensor] | None = None,
    num_starts: int | None = None,
    earlier: tuple[Sweep, ...] = (),
    keep: Callable[[Sequence[Sweep], Tensor], object] | None = None,
) -> tuple[Tensor, Fit]:
    r"""Minimises an objective of the loading and intercept of a table; it never increases.

    Under the joint objective coefficients and latents move together, along quasi-Newton directions
    that are preconditioned by the information of every row and column. Before the fit may converge,
    the latents are solved for to the tolerance of the solver.

    Under the evidence the latents are eliminated: every trial solves for them, starting from the
    last ones. The coefficients take quasi-Newton steps, preconditioned by the information of each
    feature. Latents that would take too much memory are eliminated under the joint objective too,
    with a tolerance that tightens as the coefficients have less to gain.

    Every step ends in the best basis. A step that does not decrease the objective enough is
    shortened.

    Args:
        problem: the objective: table and priors, as a :class:`JointProblem` or a
            :class:`~pyro_expfam.coefficients.EvidenceProblem`.
        latent_dim: the number of latents ``l``.
        solver: the solver for the latents. Its tolerance is the tightest that the fit uses.
        max_sweeps: the most evaluations of the whole table.
        tol: the fit stops when the next step promises less than this part of the objective and the
            last step brought less.
        max_time: seconds after which no further sweep begins.
        callback: called with every :class:`Sweep`; a result that is true ends the fit. While starts
            are compared, it sees sweeps of number 0 with the objective ``inf``.
        start: coefficients ``(d, l + 1)``. By default several starts are followed for some sweeps,
            and the fit goes on from the best one. A fit of the evidence goes on from the optimum of
            the joint objective.
        start_again: returns new starting coefficients. It is called if no step leads on before the
            fit has converged, or if it has run away, and the better of the two ends is kept.
        num_starts: how many starts to take: the spectrum of the residuals, the linear predictors of
            the entries, and random ones; by default 32 for a small table, and 2 for a large one.
            One is enough for a Gaussian table whose minima are all the same but for rotation. A fit
            that learns parameters of the family has as many if the table is small and the objective
            the joint one, and otherwise the first.
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
    if num_starts is not None:
        check_size("num_starts", num_starts)
    begin = time.perf_counter() - (earlier[-1].seconds if earlier else 0.0)
    limits = Limits(max_sweeps, tol, max_time, callback, begin, earlier=earlier, keep=keep)
    if start is None:
        begin_at = best_start(problem, latent_dim, solver, limits, num_starts, _descend)
    else:
        begin_at = Beginning(start.clone(), None, (), limits)
    first, z, starts, limits = begin_at
    coefficients, fit = _to_rest(problem, latent_dim, problem.centred(first), z, solver, limits)
    found = coefficients, replace(fit, starts=starts)
    stuck = found[1]
    is_over = stuck.converged or stuck.chosen or stuck.sweeps[-1].number >= max_sweeps
    if start_again is None and starts and problem.joint(latent_dim) not in (None, problem):
        # The joint optimum may be a bad place for the evidence.
        start_again = partial(spectral_start, problem, latent_dim)
    if start_again is None or is_over:
        return _with_exact_objective(problem, *found, solver)
    limits = limits._replace(first=stuck.sweeps[-1].number + 1, earlier=())
    if math.isfinite(stuck.objective) and stuck.reason != RAN_AWAY:
        # The better of the two ends is kept: what the callback sees is the best so far.
        limits = limits._replace(callback=_going_on(limits.callback, stuck.sweeps[-1]))
    try:
        again = _to_rest(problem, latent_dim, start_again(), None, solver, limits)
    except KeyboardInterrupt:
        again = found[0], replace(stuck, reason=INTERRUPTED, chosen=True)
    again = again[0], replace(again[1], starts=starts)
    return _with_exact_objective(problem, *_better(found, again), solver)


def _better(first: tuple[Tensor, Fit], second: tuple[Tensor, Fit]) -> tuple[Tensor, Fit]:
    """The fit that has not run away, whose objective means something, or the least one."""
    ran_away = [fit.reason == RAN_AWAY for _, fit in (first, second)]
    if ran_away[0] != ran_away[1]:
        return second if ran_away[0] else first
    # A comparison with NaN is False.
    return first if first[1].objective < second[1].objective else second


def _to_rest(
    problem: Objective,
    latent_dim: int,
    coefficients: Tensor,
    z: Tensor | None,
    solver: Solver,
    limits: Limits,
) -> tuple[Tensor, Fit]:
    """Minimises an objective, and goes on in double precision where single precision ends it.

    The objective of a table of large counts has too few digits in single precision to tell whether
    a step decreases it.
    """
    coefficients, fit = _descend(problem, latent_dim, coefficients, z, solver, limits)
    fit = replace(fit, sweeps=limits.earlier[:-1] + fit.sweeps)
    if not fit.lacks_digits or coefficients.dtype == torch.float64:
        return coefficients, fit
    callback = _going_on(limits.callback, fit.sweeps[-1])
    _, fit = _with_exact_objective(problem, coefficients, fit, solver)
    # Coefficients that have run away are as far away in double precision.
    if not math.isfinite(fit.objective + fit.sweeps[-1].decrement):
        return coefficients, fit
    dtype, keep = coefficients.dtype, limits.keep

    def keep_single(sweeps: Sequence[Sweep], found: Tensor) -> None:
        if keep is not None:
            keep(sweeps, found.to(dtype))

    limits = limits._replace(earlier=fit.sweeps, keep=keep_single, callback=callback)
    exact, z = problem.double(), fit.latents.double()
    finer, again = _descend(exact, latent_dim, coefficients.double(), z, solver, limits)
    # The first latents are solved for no more exactly than the step that follows needs.
    best = fit.objective
    later = tuple(s._replace(objective=min(best, s.objective)) for s in again.sweeps)
    sweeps = fit.sweeps[:-1] + later
    if not again.objective <= best:
        fit = replace(fit, sweeps=sweeps)
        if again.reason == INTERRUPTED:
            fit = replace(fit, converged=False, reason=INTERRUPTED, chosen=True)
        return coefficients, fit
    return finer.to(dtype), replace(again, sweeps=sweeps, latents=again.latents.to(dtype))


def _going_on(
    callback: Callable[[Sweep], object] | None, last: Sweep
) -> Callable[[Sweep], object] | None:
    """A callback that sees the sweeps after the last one, with objectives that do not rise.

    In double precision the objective is another one by the rounding of single precision, and at
    another start it is larger at first.
    """
    if callback is None:
        return None

    def report(sweep: Sweep) -> object:
        if sweep.number <= last.number:
            return None
        return callback(sweep._replace(objective=min(last.objective, sweep.objective)))

    return report


def _with_exact_objective(
    problem: Objective, coefficients: Tensor, fit: Fit, solver: Solver
) -> tuple[Tensor, Fit]:
    """The same fit with an objective that has been evaluated in double precision at its end.

    Sums over the entries of large counts have an error in single precision, and sums over real
    numbers far from zero in double precision too. Most of it is the same in every sweep, so that
    all objectives move by the same amount.
    """
    is_exact = coefficients.dtype == torch.float64 and not problem.cancels
    if is_exact or not math.isfinite(fit.objective):
        return coefficients, fit
    exact, theta = problem.double(), coefficients.double()
    z = exact.latents_of_value(theta, fit.latents.double(), _for_few_steps(exact, solver))
    error = fit.objective - exact.value(theta, z)
    if not math.isfinite(error):
        return coefficients, fit
    sweeps = tuple(s._replace(objective=s.objective - error) for s in fit.sweeps)
    return coefficients, replace(fit, sweeps=sweeps)


def _for_few_steps(problem: Objective, solver: Solver) -> Solver:
    """A solver that compiles nothing for few steps of the latents of a small table."""
    table = problem.table
    is_small = table.num_rows * table.num_predictors <= MOST_SOLVED_BY_PYTORCH
    has_steps = table.family.self_concordance is not None
    if is_small and has_steps and isinstance(solver, FisherScoring):
        return replace(solver, compiled=False)
    return solver


def _fit_of(account: Account, z: Tensor, end: End) -> Fit:
    converged, reason, chosen, lacks_digits = end
    sweeps = tuple(account.sweeps)
    return Fit(sweeps, z, converged, reason, chosen, lacks_digits=lacks_digits)


def _descend(
    problem: Objective,
    latent_dim: int,
    coefficients: Tensor,
    z: Tensor | None,
    solver: Solver,
    limits: Limits,
) -> tuple[Tensor, Fit]:
    """Minimises an objective from given coefficients, and latents if there are any."""
    account = Account(limits, problem.table.processes)
    if isinstance(problem, JointProblem) and steps_in_memory(problem.table, latent_dim):
        (coefficients, z), end = JointDescent(problem, solver, account).run(
            coefficients, latent_dim, z
        )
        return coefficients, _fit_of(account, z, end)
    if z is None:
        z = coefficients.new_zeros(problem.table.num_own_rows, latent_dim)
    return _descend_eliminated(problem, coefficients, z, solver, account)


def _descend_eliminated(
    problem: Objective, coefficients: Tensor, z: Tensor, solver: Solver, account: Account
) -> tuple[Tensor, Fit]:
    """Minimises an objective of the coefficients, with the latents eliminated in every trial."""
    num_rows, earlier = problem.table.num_rows, account.limits.earlier
    z = z.clone()
    share, exact = problem.latent_share, _as_exact_as_needed(solver, 0.0, num_rows, z)
    promised = earlier[-1].decrement if earlier else num_rows
    first = _as_exact_as_needed(solver, share * promised, num_rows, z)
    state = _evaluate(problem, coefficients, z, first)
    memory, gain, steps = QuasiNewton(), float("inf"), 0
    try:
        account.record(*_objective_and_decrement(problem, state), state.coefficients)
        while True:
            last = account.sweeps[-1]
            at_rest = account.is_at_rest(gain)
            if at_rest and state.solver == exact:
                end = account.at_rest
                break
            steps += 1
            if steps % STEPS_BETWEEN_CHECKS == 0 and _has_run_away(problem, state):
                end = End(False, RAN_AWAY)
                break
            found = None
            if not at_rest:
                enough = _as_exact_as_needed(solver, share * last.decrement, num_rows, z)
                found = _search(problem, state, memory, enough, account)
            if found is None and state.solver == exact:
                end = reason_of_no_step(last, z.dtype)
                break
            if found is None:
                found = _with_exact_latents(problem, state, exact)
            gain = state.columns.objective - found.columns.objective
            memory.remember(
                found.coefficients - state.coefficients,
                found.columns.gradient - state.columns.gradient,
            )
            state = found
            account.record(*_objective_and_decrement(problem, state), state.coefficients)
    except FitEnded as over:
        end = over.end
    except KeyboardInterrupt:
        # After hours of waiting, the user wants what was found so far.
        end = End(False, INTERRUPTED, chosen=True)
    if not end.chosen and _has_run_away(problem, state):
        end = End(False, RAN_AWAY)
    return state.coefficients, _fit_of(account, state.z, end)


def _has_run_away(problem: Objective, state: _State) -> bool:
    return problem.has_run_away(state.coefficients, state.z)


def _evaluate(problem: Objective, coefficients: Tensor, z: Tensor, solver: Solver) -> _State:
    """The state at some coefficients, with latents solved for from ``z``, in place."""
    return _State(coefficients, z, problem.columns(coefficients, z, solver), solver)


def _with_exact_latents(problem: Objective, state: _State, exact: Solver) -> _State:
    """The same coefficients, with latents to the tolerance of the solver."""
    found = _evaluate(problem, state.coefficients, state.z.clone(), exact)
    # Solving never increases the objective: an increase is rounding. NaN, which comes last, is
    # never the least.
    objective = min(state.columns.objective, found.columns.objective)
    return found._replace(columns=found.columns._replace(objective=objective))


def _as_exact_as_needed(solver: Solver, decrement: float, num_rows: int, z: Tensor) -> Solver:
    """The solver with the loosest tolerance that costs no more than a decrement.

    The distance of each row's latents from the root is measured in posterior standard deviations.
    Half the sum of the squared distances is what the joint objective loses, as half the decrement
    is what it loses to the coefficients.
    """
    return solver.at(math.sqrt(max(decrement, 0.0) / num_rows), z.dtype)


def _objective_and_decrement(problem: Objective, state: _State) -> tuple[float, float]:
    columns = state.columns
    step = _scoring_step(problem, state)(columns.gradient)
    return columns.objective, float((columns.gradient * step).sum())


def _search(
    problem: Objective, state: _State, memory: QuasiNewton, solver: Solver, account: Account
) -> _State | None:
    """The state after a step that decreases the objective, or None if none is found.

    Each trial evaluates the whole table, and is in the account if it fails.
    """
    columns, scoring_step = state.columns, _scoring_step(problem, state)
    rounding = torch.finfo(state.z.dtype).eps * abs(columns.objective) / 16
    tried = 0
    for direction in _directions(columns.gradient, scoring_step, memory):
        slope, length = float((columns.gradient * direction).sum()), 1.0
        while length >= SHORTEST and -length * slope > rounding:
            trial, z = problem.change_basis(state.coefficients + length * direction, state.z)
            found = _evaluate(problem, trial, z, solver)
            # A comparison with NaN is False.
            if found.columns.objective <= columns.objective + ENOUGH * length * slope:
                return found
            account.record_rejected()
            tried += 1
            length /= 2
            if tried == PATIENCE:
                break
    return None


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
