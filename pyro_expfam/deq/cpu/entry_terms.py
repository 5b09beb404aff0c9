"""Losses, residuals and variances of the entries of a block in one pass, in compiled functions."""

from __future__ import annotations

import math

import numba

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, whole_registers
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.likelihood import FEATURES_AT_ONCE, find_odds, find_rates
from pyro_expfam.deq.cpu.separate_moments import EXPONENTIAL, IDENTITY

SUMMED = 512
"""Losses that are summed in the precision of the table."""


@numba.njit(**OPTIONS)
def find_terms(law, rows, f, number, eta, power, residual):
    """The loss of some rows and features, whose other terms are written.

    Args:
        law: the kind of the activation, its size, the exponent beyond which a rate is infinite, and
            whether there are weights.
        rows: sufficient statistics of the rows, and their weights, each ``(n, d)``, or ``(1, d)``
            for all rows.
        f: the first of the features.
        number: how many features there are.
        eta: their linear predictors ``(n, number or more)``, which the weighted variances replace.
            What is in a row beyond the features is overwritten.
        power: memory for exponentials, of the same shape.
        residual: where weighted residuals go, of the same shape.
    """
    kind, size, largest, weighted = law
    # One call for all rows: a call costs as much as the work on a hundred entries.
    if kind == EXPONENTIAL:
        find_rates(size, largest, eta.ravel(), power.ravel(), eta.size)
        return _of_counts(rows, f, number, eta, power, residual)
    if kind == IDENTITY:
        return _of_real_numbers(rows, f, number, eta, residual)
    find_odds(eta.ravel(), power.ravel(), eta.size)
    if weighted:
        return _of_weighted_bits(size, rows, f, number, eta, power, residual)
    return _of_bits(size, rows, f, number, eta, power, residual)


@numba.njit(**IN_ANY_ORDER)
def _of_counts(rows, f, number, eta, rate, residual):
    """The loss of counts, whose other terms are written."""
    whole_registers()
    statistics, weights = rows
    total, zero = 0.0, eta.dtype.type(0)
    for r in range(len(eta)):
        s, t = min(r, len(statistics) - 1), min(r, len(weights) - 1)
        for begin in range(0, number, SUMMED):
            end, loss = min(begin + SUMMED, number), zero
            # Indices that begin at zero need no check of their sign, which would rule out the
            # vectors of the processor.
            predictor, left = eta[r, begin:end], residual[r, begin:end]
            statistic, rates = statistics[s, f + begin : f + end], rate[r, begin:end]
            weight = weights[t, f + begin : f + end]
            for i in range(end - begin):
                x, y, w, mean = predictor[i], statistic[i], weight[i], rates[i]
                left[i] = w * (y - mean)
                predictor[i] = w * mean
                loss += w * (mean - y * x)
            total += loss
    return total


@numba.njit(**IN_ANY_ORDER)
def _of_bits(size, rows, f, number, eta, odds, residual):
    """The loss of bits, whose other terms are written.

    The partition is the larger of 0 and the predictor, plus the logarithm of one plus the odds
    against the likelier outcome.
    """
    whole_registers()
    statistics, _ = rows
    total, one, zero = 0.0, eta.dtype.type(1), eta.dtype.type(0)
    for r in range(len(eta)):
        s = min(r, len(statistics) - 1)
        for begin in range(0, number, FEATURES_AT_ONCE):
            end, loss, product = min(begin + FEATURES_AT_ONCE, number), zero, one
            predictor, left = eta[r, begin:end], residual[r, begin:end]
            statistic, against = statistics[s, f + begin : f + end], odds[r, begin:end]
            for i in range(end - begin):
                x, y = predictor[i], statistic[i]
                likelier = one / (one + against[i])
                other = against[i] * likelier
                left[i] = y - size * (likelier if x > zero else other)
                predictor[i] = size * likelier * other
                loss += size * (x if x > zero else zero) - y * x
                product *= one + against[i]
            total += loss + size * math.log(product)
    return total


@numba.njit(**IN_ANY_ORDER)
def _of_weighted_bits(size, rows, f, number, eta, odds, residual):
    """As :func:`_of_bits`, with a weight for every entry."""
    whole_registers()
    statistics, weights = rows
    total, one, zero = 0.0, eta.dtype.type(1), eta.dtype.type(0)
    for r in range(len(eta)):
        s, t = min(r, len(statistics) - 1), min(r, len(weights) - 1)
        statistic, weight = statistics[s, f : f + number], weights[t, f : f + number]
        predictor, left, against = eta[r, :number], residual[r, :number], odds[r, :number]
        for i in range(number):
            x, y, w = predictor[i], statistic[i], weight[i]
            likelier = one / (one + against[i])
            other = against[i] * likelier
            left[i] = w * (y - size * (likelier if x > zero else other))
            predictor[i] = w * size * likelier * other
            partition = (x if x > zero else zero) + natural_log(1.0 + against[i])
            total += w * (size * partition - y * x)
    return total


@numba.njit(**IN_ANY_ORDER)
def _of_real_numbers(rows, f, number, eta, residual):
    """The loss of real numbers, whose other terms are written."""
    whole_registers()
    statistics, weights = rows
    total, zero, half = 0.0, eta.dtype.type(0), eta.dtype.type(0.5)
    for r in range(len(eta)):
        s, t = min(r, len(statistics) - 1), min(r, len(weights) - 1)
        for begin in range(0, number, SUMMED):
            end, loss = min(begin + SUMMED, number), zero
            predictor, left = eta[r, begin:end], residual[r, begin:end]
            statistic, weight = statistics[s, f + begin : f + end], weights[t, f + begin : f + end]
            for i in range(end - begin):
                x, y, w = predictor[i], statistic[i], weight[i]
                left[i] = w * (y - x)
                predictor[i] = w
                loss += w * x * (half * x - y)
            total += loss
    return total
