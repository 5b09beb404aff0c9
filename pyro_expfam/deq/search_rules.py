r"""The law of the line search: when a step is taken, how long the next one is, when a row is done.

It is the part of the law of Fisher scoring (:mod:`step_rules`) for losses without a certificate of
decrease. PyTorch operations (:mod:`line_search`) and kernels evaluate the same functions. Each
function decides from numbers of a row:

- the *objective* where the step starts, and the objective *there*, where it ends,
- the *decrement* :math:`\delta = g^\top p` where the step starts, with the score ``g`` and the
  direction :math:`p = H^{-1} g`,
- the *agreement*: the score at the end of the step times the direction,
- the *length* ``t`` of the step, as a part of the direction.

=========================== ========================== =========================================
a row has evaluated         the function               decides
=========================== ========================== =========================================
the end of a step           :func:`has_decreased`      whether the step is taken
the end of a step taken     :func:`is_stalled`         whether rounding is all that is left
any step                    :func:`next_length`        the length of the next step
the start of the next step  :func:`left_of_score`      what is left of the score
the start of the next step  :func:`is_at_root`         whether the row has converged
the start of the next step  :func:`ends_search`        whether the row is done, or has given up
the last of all             :func:`is_at_rest`         whether a row that is done has converged
=========================== ========================== =========================================

A start is taken without a test. Unlike a certified step, no step is known to be the last before its
end is evaluated: a row converges only by the score at the latents that it returns. Where the
rounding of the observations leaves a larger score than the tolerance, a row converges that has come
to rest: no step lowers its objective or its score any more.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from torch import sqrt, where

from pyro_expfam.deq.step_rules import inf

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that its slope promises."""

LOST = 1e-10
"""Changes of the objective below this part of it may be rounding; then slopes decide."""

SHORTEST = 1e-12
"""Where so short a step brings no decrease, none will."""

MOST_STEPS = 200
"""The most evaluations of a row by PyTorch operations, which take any loss. Rows of smooth losses
take some ten. A row that goes back and forth across a kink never comes to rest."""

ROUNDED = 1e-8
"""The largest score, in posterior standard deviations, that may be rounding in float64. Terms of
size ``k`` leave about the square root of ``k`` times the rounding of their linear predictors."""

PATIENCE = 30
"""After so many evaluations a row gives up once its score no longer falls. Until then the rounding
of a score may still come below the tolerance by chance."""


class SearchRules(NamedTuple):
    """The numbers of the law.

    Attributes:
        tolerance: the score that may be left, in posterior standard deviations.
        enough: as :data:`ENOUGH`.
        lost: as :data:`LOST`.
        shortest: as :data:`SHORTEST`.
        rounded: as :data:`ROUNDED`.
        patience: as :data:`PATIENCE`.
        max_iter: the most evaluations per row.
    """

    tolerance: Any
    enough: Any
    lost: Any
    shortest: Any
    rounded: Any
    patience: Any
    max_iter: Any

    @classmethod
    def of(cls, tolerance: float, max_iter: int) -> Self:
        """The rules for a tolerance and for the iterations that a solver may take."""
        return cls(tolerance, ENOUGH, LOST, SHORTEST, ROUNDED, PATIENCE, max_iter)


def has_decreased(objective, there, length, decrement, agreement, rules):
    r"""Whether a step decreases the objective by enough of what its slope promises.

    That is Armijo's rule, :math:`f(z + t p) \le f(z) - c\, t\, \delta`. Where the decrease is lost
    to rounding, a step is also good if the slope at its end is what Armijo's rule implies for a
    quadratic function, :math:`-g(z + t p)^\top p \le (1 - 2 c)\, \delta`.

    Source: Nocedal and Wright, *Numerical optimization* (2006), chapter 3; Hager and Zhang (2005),
    *A new conjugate gradient method with guaranteed descent and an efficient line search*, section
    2, for the rule by slopes.
    """
    # A comparison with NaN, from a step that overflowed, is False.
    lost = rules.lost * (1 + where(objective < 0, -objective, objective))
    enough = there <= objective - rules.enough * length * decrement
    flat = agreement >= (2 * rules.enough - 1) * decrement
    return enough | ((there <= objective + lost) & flat)


def is_stalled(objective, there, before, decrement, num_iter, rules):
    """Whether rounding is all that is left of a row: neither objective nor decrement falls.

    Args:
        objective: the objective where the last step began.
        there: the objective where it ended.
        before: the decrement where it began.
        decrement: the decrement where it ended.
        num_iter: evaluations of the row.
        rules: the numbers of the law.
    """
    lost = rules.lost * (1 + where(objective < 0, -objective, objective))
    no_lower = (there >= objective - lost) & (decrement >= before)
    return no_lower & (num_iter > rules.patience)


def next_length(taken, length):
    """The length of the next step: whole after a step that is taken, half after a refusal."""
    return where(taken, 1.0, 0.5 * length)


def left_of_score(decrement):
    r"""The score :math:`\sqrt{g^\top H^{-1} g}` that is left, in posterior standard deviations."""
    return sqrt(where(decrement < 0, 0.0, decrement))


def is_at_root(left, rules):
    """Whether a row has converged at the latents where ``left`` was computed."""
    return left <= rules.tolerance


def ends_search(left, length, num_iter, rules):
    """Whether a row is done: converged, without a finite score or a step, out of iterations."""
    stuck = (length < rules.shortest) | ((left < inf) == 0)
    return is_at_root(left, rules) | stuck | (num_iter >= rules.max_iter)


def is_at_rest(left, num_iter, rules):
    """Whether a row that is done has converged: to the tolerance, or to what rounding leaves.

    A row that is done before it is out of iterations has stalled, or has no step that brings a
    decrease. Rounding is the reason where little of the score is left.
    """
    is_rounding = (left <= rules.rounded) & (num_iter < rules.max_iter)
    return is_at_root(left, rules) | is_rounding


LAW = (
    has_decreased,
    is_stalled,
    next_length,
    left_of_score,
    is_at_root,
    ends_search,
    is_at_rest,
)
"""All decisions."""
