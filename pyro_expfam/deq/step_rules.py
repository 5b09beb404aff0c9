r"""The law of Fisher scoring: when a row steps, how far, and when it stops.

The law is evaluated three times: by PyTorch operations on tensors of rows (:mod:`fisher_scoring`),
and by the kernels of Numba and Triton, which compile the same functions (:func:`compiled_law`).
Each function decides from numbers of a row:

- the *score* ``g`` at the latents evaluated last, and the direction ``p`` of the step on trial,
- the *agreement* ``g p`` of the two: minus the slope of the objective at the end of the step,
- the *decrement* :math:`\delta = g^\top p` where the step starts,
- the *change*, :math:`D = M \max_i |w_i^\top p|`: along the direction no variance changes by more
  than a factor :math:`e^{\pm D}`,
- the *square* :math:`(M \max_i \|w_i\| \|p\|)^2`, which is at least :math:`D^2` and needs no pass
  over the features,
- the *length* ``t`` of the step, as a part of the direction,
- the *reach*: how many times the damped step :math:`\log(1 + D) / D` a row tries. It is infinite
  while whole steps succeed.

========================== ============================= =======================================
a row has evaluated        the function                  decides
========================== ============================= =======================================
its start                  :func:`restarts`              whether it starts again, from zero
the end of a step          :func:`descends`,             whether the step is taken
                           :func:`is_safe`,
                           :func:`is_accepted`
the end of a step taken    :func:`reach_after_step`      how far the next step may go
the end of a step refused  :func:`reach_after_failure`   how far the next trial goes
the end of a step taken    :func:`needs_change`          whether the length depends on the change
any of these               :func:`first_length`,         the length of the next step
                           :func:`damped_length`
the end of a step taken    :func:`is_last`               whether the next step is the last
any of these               :func:`leaves`                whether the row is done, or has given up
the last of all            :func:`residual`              what is left of the score
========================== ============================= =======================================

A start is taken without a test. A row that leaves after its last step ends where the step ends;
any other row that leaves ends where its step starts.

Two decisions are not made here. A row whose information the dtype cannot resolve leaves in float32.
In float64, where no more digits are to be had, it steps along the score divided by the trace of the
information, which is at least the largest eigenvalue: such a step decreases the objective. And
PyTorch removes converged rows only once there are many, since removing rows costs as much as a few
iterations. Until then these rows take further steps by the same law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import exp, log1p, sqrt, where

from pyro_expfam.deq.packed import SMALLEST_PIVOT

# Names of the law, which the kernels replace by their own: see `compiled_law`.
inf = math.inf

SAFE_CHANGE = 0.35
"""A step that changes no log variance by more than this always passes the test of decrease."""

LAST_STEP = 0.71
"""Half the exponential of the safe change. After a safe step the score is less than this number
times the change times the score before the step."""

EAGER_CHANGE = 2.0
"""First steps that change a log variance by more are damped, for families of unbounded variance."""


class StepRules(NamedTuple):
    """The numbers of the law.

    Attributes:
        tolerance: the score that may be left, in posterior standard deviations.
        safe_change: as :data:`SAFE_CHANGE`.
        last_step: as :data:`LAST_STEP`.
        eager_change: as :data:`EAGER_CHANGE`; infinite for families of bounded variance.
        smallest_pivot: the least pivot of a matrix that counts as resolved, as a part of its
            diagonal entry.
        far: the change of a log variance beyond which a row starts again from zero; infinite for
            never. Only the CPU kernel sets it: no other evaluation starts rows from a grid.
        max_iter: the most evaluations of the score per row.
    """

    tolerance: Any
    safe_change: Any
    last_step: Any
    eager_change: Any
    smallest_pivot: Any
    far: Any
    max_iter: Any

    @classmethod
    def of(cls, tolerance: float, dtype: torch.dtype, max_iter: int) -> StepRules:
        """The rules for a dtype."""
        pivot = SMALLEST_PIVOT[dtype]
        return cls(tolerance, SAFE_CHANGE, LAST_STEP, EAGER_CHANGE, pivot, inf, max_iter)

    def for_variance(self, bounded: bool) -> StepRules:
        """The same rules for a family whose variance is bounded or not."""
        return self._replace(eager_change=inf) if bounded else self


def restarts(square, resolved, rules):
    """Whether a row gives up its start for zero, also for want of digits of its information."""
    # A comparison with NaN is False.
    near = (square <= rules.far * rules.far) & resolved
    return (rules.far < inf) & (near == 0)


def descends(agreement):
    """Whether the objective has decreased all along a step, for a convex objective.

    Its slope at the end is then not yet positive. After a step that overflowed the agreement is
    NaN, for which a comparison is False.
    """
    return agreement >= 0


def is_safe(square, length, rules):
    """Whether a step is certain to be accepted, by the bound of the change along it alone."""
    return length * length * square <= rules.safe_change * rules.safe_change


def is_accepted(agreement, length, change, decrement, rules):
    """Whether the objective is certain to have decreased along a step.

    It decreases by at least ``t`` times the agreement plus half of ``t`` squared, the decrement
    and the least share of the curvature that remains along the step.
    """
    allowed = -0.5 * length * curvature_share(length * change) * decrement
    return descends(agreement) | (length * change <= rules.safe_change) | (agreement >= allowed)


def curvature_share(change):
    r"""The least share :math:`(1 - (1 + x) e^{-x}) / x^2` of the curvature along a step."""
    exact = (1 - (1 + change) * exp(-change)) / (change * change)
    return where(change < 1e-2, 0.5 - change / 3, exact)


def reach_after_step(reach, length):
    """The reach after a step that is taken: twice as far, and anywhere after a whole step.

    Damped steps are certain to succeed, and many times too short in rows whose variances differ
    by orders of magnitude. A longer step may fail, and then costs one evaluation.
    """
    return where(length == 1, inf, 2 * reach)


def reach_after_failure(reach, length):
    """The reach after a step that is refused: the damped step, which cannot fail but by rounding.

    If it does, the next one is half as long.
    """
    beyond = (length == 1) | ((reach > 1) & (reach < inf))
    return where(beyond, 1.0, where(reach < 1, 0.5 * reach, 0.5))


def needs_change(square, reach, rules):
    """Whether the length of a first step depends on the change along its direction."""
    # Twice the damped step is a whole step up to a change of 2.5.
    short = (reach < 2) | (square > 6.25)
    return (square > rules.eager_change * rules.eager_change) | ((reach < inf) & short)


def first_length(change, reach, rules):
    """The length of the first step from some latents; 1 where no change is needed."""
    eager = where(change > rules.eager_change, damped_length(change, 1.0), 1.0)
    return where(reach < inf, damped_length(change, reach), eager)


def damped_length(change, reach):
    """The length of the damped step times the reach, at most 1.

    Source: Sun and Tran-Dinh, *Generalized self-concordant functions* (2019), for the damped step.
    """
    length = where(change > 0, reach * log1p(change) / change, 1.0)
    return where(length < 1, length, 1.0)


def is_last(decrement, square, length, resolved, rules):
    """Whether the score at the end of a whole step is certain to be below the tolerance."""
    # Squares cost less than roots.
    wanted = rules.tolerance / rules.last_step
    small = decrement * square <= wanted * wanted
    safe = square <= rules.safe_change * rules.safe_change
    return small & safe & (length == 1) & resolved


def leaves(last, resolved, num_iter, rules):
    """Whether a row leaves: before its last step, for want of digits, or out of iterations."""
    return last | (resolved == 0) | (num_iter >= rules.max_iter)


def residual(decrement, square, last, rules):
    """The score that is left, or a bound of it after the last step."""
    before = sqrt(where(decrement < 0, 0.0, decrement))
    return where(last, before * sqrt(square) * rules.last_step, before)


LAW: tuple[Callable[..., Any], ...] = (
    restarts,
    descends,
    is_safe,
    curvature_share,
    is_accepted,
    reach_after_step,
    reach_after_failure,
    needs_change,
    damped_length,
    first_length,
    is_last,
    leaves,
    residual,
)
"""All decisions."""


def compiled_law(
    compile_function: Callable[[Any], Any],
    names: Mapping[str, Any],
    law: tuple[Callable[..., Any], ...] = LAW,
) -> dict[str, Callable[..., Any]]:
    """A law compiled by a compiler, by the names of its functions.

    Args:
        compile_function: makes a compiled function of a function.
        names: what the compiler takes for ``exp``, ``log1p``, ``sqrt``, ``where`` and ``inf``.
        law: the functions of the law; each may call those before it.

    Returns:
        The compiled functions, which call each other.
    """
    compiled = {"__name__": __name__, **names}
    for function in law:
        assert isinstance(function, FunctionType)
        copy = FunctionType(function.__code__, compiled, function.__name__)
        compiled[function.__name__] = compile_function(copy)
    return {function.__name__: compiled[function.__name__] for function in law}
