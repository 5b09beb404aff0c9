r"""Losses of Poisson counts with a normal effect in the log rate, compiled by Numba.

The effect is integrated out by the trapezoidal rule around the mode of its density given the count,
as in :mod:`~pyro_expfam.families.normal_effect`. With the rate ``r`` at the mode and the distance
``u`` of the log rate from the mode, the log density falls by
:math:`r (e^u - 1 - u) + u^2 / (2 s^2)`. A node takes one exponential: :math:`e^u - 1` follows from
node to node. Derivatives of the loss are cumulants of the rate where the prior of the effect says
more than the count, and cumulants of the log rate elsewhere.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import INLINED
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log

_TO_EXPONENT = 1 / math.log(2)
_LOG_ROOT = 0.5 * math.log(2 * math.pi)

DEPTH = 42.0
"""Nodes lie where the log density is at most so far below its mode."""

WIDEST_STEP, PART_OF_DEVIATION = 0.22, 0.55
"""The largest distances of nodes: the log density is analytic within a distance of pi / 2, and a
normal density wants so large a part of its standard deviation at most. Either error is 1e-16."""

MOST_NODES = 4096
"""The most nodes to a side, for scales beyond 100, where accuracy is lost."""

LARGEST_GROWTH = 1e40
"""A larger growth of the rate has no probability, and its sixth power would overflow."""

NEWTON_STEPS = 8
"""Steps to the mode, each of which doubles the digits."""

CHUNK = 32
"""Lanes at a time, which have as many nodes as any of them needs."""

(
    _DISTANCE,
    _RATE,
    _IS_WEAK,
    _STEP,
    _RATIO,
    _GROWTH,
    _UP,
    _TOTAL,
    _FIRST,
    _SECOND,
    _THIRD,
    _FOURTH,
    _FIFTH,
    _SIXTH,
    _LEFT,
    _RIGHT,
) = range(16)
"""Rows of the memory: numbers of the mode and of the nodes, and sums over the nodes."""


@numba.njit(**INLINED)
def _exponential(x):
    return power_of_two(_TO_EXPONENT * x)


@numba.njit(**INLINED)
def _expm1(x):
    """The exponential less one for a number of at most a quarter, by its series."""
    rest = 1.0 + x / 9.0 * (1.0 + x / 10.0 * (1.0 + x / 11.0 * (1.0 + x / 12.0)))
    rest = 1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0 * rest))
    return x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * rest))))


@numba.njit(**INLINED)
def _find_modes(eta, y, scale, begin, memory):
    """The modes of some lanes, and how far from them the densities matter."""
    square = scale * scale
    log_square, precision = 2.0 * math.log(scale), 1.0 / square
    for r in range(CHUNK):
        right = log_square + eta[begin + r] + square * y[begin + r]
        above = natural_log(right if right > 1.0 else 1.0)
        memory[_DISTANCE, r], memory[_RATE, r] = right, above if right > 1.0 else right
    for _ in range(NEWTON_STEPS):
        for r in range(CHUNK):
            v = memory[_RATE, r]
            share = _exponential(v)
            memory[_RATE, r] = v - (v + share - memory[_DISTANCE, r]) / (1.0 + share)
    for r in range(CHUNK):
        v = memory[_RATE, r]
        share = _exponential(v)
        # Each form of the distance is exact where the other cancels.
        near, far = square * y[begin + r] - share, v - log_square - eta[begin + r]
        memory[_DISTANCE, r] = near if share < 4.0 else far
        rate = share * precision
        memory[_RATE, r] = rate
        memory[_IS_WEAK, r] = 1.0 if share < 1.0 else 0.0
        deviation = scale / math.sqrt(1.0 + share)
        step = PART_OF_DEVIATION * deviation
        step = step if step < WIDEST_STEP else WIDEST_STEP
        # To the left the count says at least what Bernstein's inequality says.
        left = math.sqrt(2.0 * DEPTH) * scale
        for _ in range(3):
            left = math.sqrt(2.0 * DEPTH / (precision + rate / (1.0 + left / 3.0)))
        high = math.sqrt(2.0 * DEPTH) * deviation
        bound = DEPTH / (rate if rate > 1e-300 else 1e-300)
        for _ in range(3):
            other = natural_log(1.0 + high + bound)
            high = high if high < other else other
        wider = left if left > high else high
        step = step if step * MOST_NODES > wider else wider / MOST_NODES
        memory[_STEP, r], memory[_LEFT, r], memory[_RIGHT, r] = step, left / step, high / step


@numba.njit(**INLINED)
def _count_nodes(memory, side):
    """The nodes to a side that any lane needs."""
    most = 0.0
    for r in range(CHUNK):
        most = memory[side, r] if memory[side, r] > most else most
    return int(most) + 1


@numba.njit(**INLINED)
def _add_node(precision, memory):
    """Adds the densities and moments of a node of all lanes."""
    half = 0.5 * precision
    for r in range(CHUNK):
        u, growth = memory[_UP, r], memory[_GROWTH, r]
        fall = memory[_RATE, r] * (growth - u) + half * u * u
        p = _exponential(-fall)
        v = growth if memory[_IS_WEAK, r] > 0 else u
        memory[_TOTAL, r] += p
        p *= v
        memory[_FIRST, r] += p
        p *= v
        memory[_SECOND, r] += p
        p *= v
        memory[_THIRD, r] += p
        p *= v
        memory[_FOURTH, r] += p
        p *= v
        memory[_FIFTH, r] += p
        p *= v
        memory[_SIXTH, r] += p


@numba.njit(**INLINED)
def _add_side(precision, sign, count, memory):
    """Adds the nodes to one side of the modes."""
    for r in range(CHUNK):
        memory[_RATIO, r] = _expm1(sign * memory[_STEP, r])
        memory[_GROWTH, r], memory[_UP, r] = 0.0, 0.0
    for k in range(1, count + 1):
        for r in range(CHUNK):
            growth = memory[_GROWTH, r]
            # From the mode outwards, this keeps the digits of a growth near zero.
            growth += (growth + 1.0) * memory[_RATIO, r]
            memory[_GROWTH, r] = growth if growth < LARGEST_GROWTH else LARGEST_GROWTH
            memory[_UP, r] = sign * k * memory[_STEP, r]
        _add_node(precision, memory)


@numba.njit(**INLINED)
def _find_derivatives(eta, y, scale, begin, memory, found):
    """The losses of some lanes and their derivatives, from the sums over the nodes."""
    square = scale * scale
    precision = 1.0 / square
    constant = math.log(scale) + _LOG_ROOT
    for r in range(CHUNK):
        total, distance, rate = memory[_TOTAL, r], memory[_DISTANCE, r], memory[_RATE, r]
        is_weak, s = memory[_IS_WEAK, r] > 0, begin + r
        of_one = 1.0 / total
        mean = memory[_FIRST, r] * of_one
        m2, m3, m4 = memory[_SECOND, r] * of_one, memory[_THIRD, r] * of_one, memory[_FOURTH, r]
        m4, m5, m6 = m4 * of_one, memory[_FIFTH, r] * of_one, memory[_SIXTH, r] * of_one
        a, b = mean, mean * mean
        # Moments around the mean, then cumulants.
        k2 = m2 - b
        k3 = m3 - a * (3.0 * m2 - 2.0 * b)
        c4 = m4 - a * (4.0 * m3 - a * (6.0 * m2 - 3.0 * b))
        c5 = m5 - a * (5.0 * m4 - a * (10.0 * m3 - a * (10.0 * m2 - 4.0 * b)))
        c6 = m6 - a * (6.0 * m5 - a * (15.0 * m4 - a * (20.0 * m3 - a * (15.0 * m2 - 5.0 * b))))
        k4, k5 = c4 - 3.0 * k2 * k2, c5 - 10.0 * k3 * k2
        k6 = c6 - 15.0 * c4 * k2 - 10.0 * k3 * k3 + 30.0 * k2 * k2 * k2
        # Cumulants of the rate, or of the log rate over powers of the squared scale.
        unit = rate if is_weak else precision
        power = unit * unit
        k2, k3, k4 = k2 * power, k3 * power * unit, k4 * power * power
        k5, k6 = k5 * power * power * unit, k6 * power * power * power
        prior = 0.5 * precision * distance * distance + constant
        weight = natural_log(memory[_STEP, r] * total) - prior
        found[0, s] = (rate - y[s] * (eta[s] + distance)) - weight
        k1 = rate * (1.0 + mean)
        found[1, s] = k1 - y[s] if is_weak else -precision * (distance + mean)
        found[2, s] = k1 - k2 if is_weak else precision - k2
        found[3, s] = k1 - 3.0 * k2 + k3 if is_weak else -k3
        found[4, s] = k1 - 7.0 * k2 + 6.0 * k3 - k4 if is_weak else -k4
        of_five = k1 - 15.0 * k2 + 25.0 * k3 - 10.0 * k4 + k5
        found[5, s] = of_five if is_weak else -k5
        of_six = k1 - 31.0 * k2 + 90.0 * k3 - 65.0 * k4 + 15.0 * k5 - k6
        found[6, s] = of_six if is_weak else -k6


@numba.njit(**INLINED)
def with_normal_effect(eta, y, scale, found):
    """Losses of counts and their first six derivatives.

    Args:
        eta: linear predictors, ``(lanes,)``.
        y: counts, ``(lanes,)``.
        scale: the standard deviation of the effect.
        found: where losses and derivatives go, ``(7, lanes)``.
    """
    memory = np.empty((16, CHUNK))
    precision = 1.0 / (scale * scale)
    for begin in range(0, LANES, CHUNK):
        _find_modes(eta, y, scale, begin, memory)
        for r in range(CHUNK):
            # The node at the mode.
            memory[_TOTAL, r] = 1.0
            for k in range(_FIRST, _SIXTH + 1):
                memory[k, r] = 0.0
        for side in range(2):
            count = _count_nodes(memory, _LEFT + side)
            _add_side(precision, 2.0 * side - 1.0, count, memory)
        _find_derivatives(eta, y, scale, begin, memory, found)
