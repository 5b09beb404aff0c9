r"""Losses of counts with additional zeros, for compiled functions.

A zero is counted with the loss ``m`` of the law of the other counts, or is there for sure. With the
log odds ``o`` against the latter, the probability that it was counted is the logistic function of
:math:`o - m`. The loss of a zero and its derivatives in ``m`` are functions of this probability,
and those in the linear predictor follow by the formula of Faa di Bruno.
"""

from __future__ import annotations

import math

import numba

from pyro_expfam.deq.cpu.beta_entries import composed, shares
from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log

_TO_EXPONENT = 1 / math.log(2)

ZEROS_END = 40.0
"""Where linear predictors of Poisson counts are larger, no zero is counted: its probability and all
derivatives are below any number, and powers of the mean would overflow."""


@numba.njit(**INLINED)
def of_counted(counted, certain):
    """The derivatives of the loss of a zero in the loss of a counted one, from the first to fifth.

    Args:
        counted: the probability that the zero was counted.
        certain: the rest.
    """
    v, skew = counted * certain, certain - counted
    return counted, -v, v * skew, -v * (1.0 - 6.0 * v), v * skew * (1.0 - 12.0 * v)


@numba.njit(**INLINED)
def mean_of_zero(eta):
    """The mean of a Poisson count at the linear predictor of a zero."""
    return power_of_two(_TO_EXPONENT * (eta if eta < ZEROS_END else ZEROS_END))


@numba.njit(**INLINED)
def inflate(y, log_odds, log_rest, loss, first, second, third, fourth, fifth):
    """Turns losses and derivatives of counts into losses and derivatives with additional zeros.

    Args:
        y: the counts, ``(lanes,)``.
        log_odds: the log odds against a zero for sure.
        log_rest: the log of the probability that there is none.
        loss: losses without additional zeros, which are overwritten.
        first: their derivatives in the linear predictor, which are overwritten.
        second: their second derivatives.
        third: the third.
        fourth: the fourth.
        fifth: the fifth.
    """
    for r in range(LANES):
        m = loss[r]
        odds = log_odds - m
        counted, certain = shares(odds)
        likelier = counted if odds > 0 else certain
        g = of_counted(counted, certain)
        of_zero = composed(
            g[0], g[1], g[2], g[3], g[4], first[r], second[r], third[r], fourth[r], fifth[r]
        )
        is_zero = y[r] == 0
        # The loss of the likelier way to be zero, less the log of one over its probability.
        likely = m if odds > 0 or not is_zero else log_odds
        both = natural_log(likelier) if is_zero else 0.0
        loss[r] = likely + both - log_rest
        first[r] = of_zero[0] if is_zero else first[r]
        second[r] = of_zero[1] if is_zero else second[r]
        third[r] = of_zero[2] if is_zero else third[r]
        fourth[r] = of_zero[3] if is_zero else fourth[r]
        fifth[r] = of_zero[4] if is_zero else fifth[r]
