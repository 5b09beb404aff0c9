"""The account of a fit: its sweeps, its limits, and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.limits import check_positive, check_size
from pyro_expfam.deq.processes import ONE, Processes

INTERRUPTED = "it was interrupted by Ctrl-C"

NO_STEP = "no step decreases the objective"

RAN_AWAY = "it has run away to where the approximate evidence does not hold"


class Sweep(NamedTuple):
    """The state of the fit after a sweep over the table.

    Attributes:
        number: the number of sweeps so far, each an evaluation of the whole table.
        objective: the objective at the coefficients, up to the constant that the problem leaves
            out. It is minus the log density of observations, latents and coefficients, or minus the
            log evidence and log prior. After a sweep that tried a step in vain it is what it was.
        decrement: twice the decrease that a full step of Fisher scoring promises.
        seconds: the time since the fit began.
    """

    number: int
    objective: float
    decrement: float
    seconds: float


class Start(NamedTuple):
    """A place from which a fit has started.

    Attributes:
        kind: ``"spectral"``, from the residuals; ``"working"``, from the linear predictors of the
            entries; or ``"random"``.
        objective: the objective to which the place led, as far as it was followed. A fit of the
            evidence starts from a fit of the joint objective, and has the joint objectives here.
            Starts of a large table are followed on a sample of its rows, from which the objective
            of the table is then estimated.
        refined: whether it was followed until the objective came to rest.
    """

    kind: str
    objective: float
    refined: bool


SAME_OPTIMUM = 1e-4
"""Objectives within this part of each other count as one optimum."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a fit went.

    Attributes:
        sweeps: every sweep, the start first; objectives never increase. The last objective of a
            fit by columns is evaluated in double precision. Objectives of a quasi-Newton fit have
            the precision of the model: in single precision, objectives of counts of millions and of
            real numbers far from zero are off by up to thousandths of a nat per row.
        latents: the latents of the rows, ``(N, l)``. If the fit converged, they are solved for to
            the tolerance of the solver. If a limit ended the fit, they may be less exact, in
            proportion to the coefficients.
        converged: whether both the objective and its gradient came to rest.
        reason: why the fit ended, in words.
        chosen: whether the user ended the fit before it converged: by the callback, by ``max_time``
            or by Ctrl-C.
        starts: the places from which the fit has started, the best first; none if it went on from
            given coefficients.
        lacks_digits: whether it ended because no step decreases the objective by more than its
            rounding.
    """

    sweeps: tuple[Sweep, ...]
    latents: Tensor
    converged: bool
    reason: str
    chosen: bool = False
    starts: tuple[Start, ...] = ()
    lacks_digits: bool = False

    @property
    def num_optima(self) -> int:
        """How many optima are known: where starts have come to rest, or the fit itself has."""
        return max(num_optima(self.starts), int(self.converged))

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


def refuse_interrupted(fit: Fit) -> None:
    """Ctrl-C that has ended a fit interrupts what the fit is a part of.

    Raises:
        KeyboardInterrupt: if Ctrl-C has ended it.
    """
    if fit.reason == INTERRUPTED:
        raise KeyboardInterrupt


def num_optima(starts: Sequence[Start]) -> int:
    """How many optima the starts have led to that were followed until they came to rest."""
    ends = sorted(start.objective for start in starts if start.refined)
    apart = (after - before > SAME_OPTIMUM * (1 + abs(after)) for before, after in pairwise(ends))
    return min(len(ends), 1) + sum(apart)


class End(NamedTuple):
    """How a fit ended, as in :class:`Fit`."""

    converged: bool
    reason: str
    chosen: bool = False
    lacks_digits: bool = False


class FitEnded(Exception):
    """Ends an iteration from within an evaluation.

    Args:
        end: how the fit ended.
    """

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


class Limits(NamedTuple):
    """The limits of a fit, the user's callback, the time it began, the first sweep's number.

    ``earlier`` and ``keep`` are as in :func:`~pyro_expfam.joint.fit_coefficients`.
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


class Account:
    """The sweeps of an iteration, each of which may be its last.

    Args:
        limits: the limits of the fit.
        processes: the processes that fit together; the clock is of the first.
    """

    def __init__(self, limits: Limits, processes: Processes = ONE) -> None:
        self.limits, self._processes = limits, processes
        self.sweeps: list[Sweep] = []

    def record(
        self, objective: float, decrement: float, coefficients: Tensor | None = None
    ) -> None:
        """Adds the sweep that has just been taken, with the coefficients it led to, if to any.

        Raises:
            FitEnded: if a limit or the callback ends the fit.
        """
        limits = self.limits
        if self.sweeps:
            number = self.sweeps[-1].number + 1
        else:
            number = limits.earlier[-1].number if limits.earlier else limits.first
        seconds = self._processes.of_first(lambda: time.perf_counter() - limits.begin)
        self.sweeps.append(Sweep(number, objective, decrement, seconds))
        if limits.keep is not None and coefficients is not None:
            limits.keep(self.sweeps, coefficients)
        self._end_if_over()

    def record_rejected(self) -> None:
        """Adds a sweep that tried a step in vain.

        Raises:
            FitEnded: if a limit or the callback ends the fit.
        """
        self.record(self.sweeps[-1].objective, self.sweeps[-1].decrement)

    def is_at_rest(self, gain: float) -> bool:
        """Whether the next step promises little, and the last one brought little."""
        return is_at_rest(self.sweeps[-1], gain, self.limits.tol)

    @property
    def at_rest(self) -> End:
        """The end of a fit that has converged."""
        return End(True, f"the objective came to rest within {self.limits.tol:g} of itself")

    def _end_if_over(self) -> None:
        last, limits = self.sweeps[-1], self.limits
        if limits.callback is not None and limits.callback(last):
            raise FitEnded(End(False, "the callback said so", chosen=True))
        if last.number >= limits.max_sweeps:
            raise FitEnded(End(False, f"max_sweeps, {limits.max_sweeps}, have been taken"))
        if limits.max_time is not None and last.seconds >= limits.max_time:
            raise FitEnded(
                End(False, f"max_time, {limits.max_time:g} seconds, is over", chosen=True)
            )


def is_at_rest(last: Sweep, gain: float, tol: float) -> bool:
    """Whether the step after a sweep promises little, and the step before it brought little."""
    small = tol * (1 + abs(last.objective))
    return math.isfinite(small) and last.decrement <= small and gain <= small


def reason_of_no_step(last: Sweep, dtype: torch.dtype) -> End:
    """The end of a fit in which no step decreases the objective: it may have converged."""
    if not math.isfinite(last.objective):
        return End(False, f"the objective is {last.objective} and no step leads away from there")
    if last.decrement <= torch.finfo(dtype).eps ** 0.5 * (1 + abs(last.objective)):
        reason = f"{NO_STEP} beyond rounding"
        return End(True, reason, lacks_digits=True)
    reason = f"{NO_STEP}, although {last.decrement / 2:.3g} are promised"
    return End(False, reason, lacks_digits=True)
