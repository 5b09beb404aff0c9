r"""The Laplace evidence of tables of categories and its gradient, compiled by Numba.

With the probabilities :math:`p_k` of the levels of a column and their mean loading
:math:`m = \sum_k p_k w_k`, the information of a column is :math:`\sum_k p_k w_k w_k^\top` less
:math:`m m^\top`, and the slope of its log determinant in a linear predictor is :math:`p_k` times
the form :math:`(w_k - m)^\top C (w_k - m)` less the mean of these forms. Blocks of rows and passes
are as in :mod:`~pyro_expfam.deq.cpu.laplace_sums`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.dots import add_dots
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, STRIDE, begin_sums, linear_predictors
from pyro_expfam.deq.cpu.evidence_block import (
    empty_block,
    keep_rows,
    load_block,
    load_gradients,
    padded,
)
from pyro_expfam.deq.cpu.evidence_losses import add_information
from pyro_expfam.deq.cpu.evidence_moments import (
    find_forms,
    find_log_dets,
    find_moments,
    solve_latents,
)
from pyro_expfam.deq.cpu.evidence_table import evidence_table
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.laplace_sums import (
    LaplaceRows,
    LaplaceSums,
    as_sums,
    double,
    empty_rows,
)
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem

_TO_EXPONENT = 1 / math.log(2)
_TINY = 1e-300


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_rows`."""
    nothing = torch.zeros(0, dtype=torch.float64)
    found, _ = _compute(problem, z, nothing, nothing)
    return LaplaceRows(*map(torch.from_numpy, found))


def laplace_sums(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    with_parameters: bool = False,
) -> LaplaceSums:
    """As :func:`pyro_expfam.deq.cpu.laplace_sums.laplace_sums`; categories have no parameters."""
    del with_parameters
    found, parts = _compute(problem, z, of_likelihood, of_log_det)
    sums = as_sums(problem, found, [part[:-1] for part in parts])
    to_means = np.sum([part[-1] for part in parts], 0)
    sums.coefficients[:, :-1] -= torch.from_numpy(to_means)
    return sums


def _compute(
    problem: LatentProblem, z: Tensor, of_likelihood: Tensor, of_log_det: Tensor
) -> tuple[LaplaceRows, Any]:
    found = empty_rows(*z.shape)
    work = partial(
        _find_sums,
        evidence_table(problem),
        problem.levels,
        double(z),
        double(of_likelihood),
        double(of_log_det),
        SMALLEST_PIVOT[torch.float64],
        *found,
    )
    return found, in_threads(work, spans(len(z), problem.num_features, ENTRIES_TO_SOLVE))


class _Memory(NamedTuple):
    """Memory for a block of rows beside a block; the last dimension runs over lanes.

    Attributes:
        loading: transposed, ``(l, d)``.
        means: mean loadings of the columns, ``(columns * l, stride)``.
        variance: variances of the indicators, then products of loadings with ``u``.
        through: products of the covariance with a mean loading, ``(l, lanes)``.
        crossed: products of the loadings of a column with these, ``(levels, lanes)``.
        numbers: numbers of a column.
    """

    loading: Any
    means: Any
    variance: Any
    through: Any
    crossed: Any
    numbers: Any


@numba.njit(**OPTIONS)
def _empty_memory(rows, levels, height):
    num_features, latent_dim = rows.shape
    return _Memory(
        rows.T.copy(),
        np.zeros((num_features // levels * latent_dim, STRIDE)),
        np.zeros((height, STRIDE)),
        np.zeros((latent_dim, LANES)),
        np.zeros((levels, LANES)),
        np.zeros((4, LANES)),
    )


@compiled_once
def _find_sums(
    table,
    levels,
    z,
    of_likelihood,
    of_log_det,
    smallest_pivot,
    loss,
    log_det,
    resolved,
    trace,
    u,
    begin,
    end,
):
    """The parts of rows from ``begin`` to ``end``, and sums if there are gradients of each row."""
    rows = table.design.rows
    num_features, latent_dim = rows.shape
    block = empty_block(table, latent_dim, 3)
    height, width = len(block.residual), block.vectors.shape[1]
    memory = _empty_memory(rows, levels, height)
    to_predictors, to_latents = np.zeros((height, width)), np.zeros((height, width))
    moments = np.zeros((height, len(block.moments)))
    spread = np.zeros((height, padded(len(block.information))))
    to_means = np.zeros((num_features, latent_dim))
    gradients, traces = np.zeros((2, LANES)), np.zeros(LANES)
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        _find_losses(table, levels, block, memory)
        if len(of_likelihood):
            load_gradients(of_likelihood, of_log_det, block, gradients)
            find_moments(latent_dim, smallest_pivot, block, traces)
            block.third[:] = 1
            find_forms(rows, block, block.third)
            _find_slopes(rows, levels, gradients, block, memory, to_means)
            solve_latents(gradients, block)
            add_dots(moments, memory.variance, block.moments)
            _find_gradients(rows, levels, gradients, block, memory)
            add_dots(to_predictors, block.third, block.vectors[0])
            add_dots(to_latents, block.residual, block.vectors[1])
            add_dots(spread, block.curvature, block.moments)
        else:
            find_log_dets(latent_dim, smallest_pivot, block)
        keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u)
    return to_predictors, to_latents, moments, spread, to_means


@numba.njit(**OPTIONS)
def _find_losses(table, levels, block, memory):
    """Losses, residuals, probabilities times weights, and the information of all lanes."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    rows, intercept, row, y = design.rows, design.exponent_intercept, block.row, block.y
    latent_dim, information, eta = rows.shape[1], block.information, block.third
    weight, top, total, drawn = (
        memory.numbers[0],
        memory.numbers[1],
        memory.numbers[2],
        memory.numbers[3],
    )
    begin_sums(design.precision, block.vectors[3, :latent_dim], information)
    block.loss[:] = 0
    weight[:] = 1
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        of_group = eta[begin : begin + count]
        linear_predictors(rows, intercept, offset, 1.0, begin, count, row, block.z, of_group)
    for first in range(0, len(rows), levels):
        if len(weights):
            column = min(first, weights.shape[1] - 1)
            by_row = 1 if len(weights) > 1 else 0
            for r in range(LANES):
                weight[r] = weights[by_row * row[r], column]
        for r in range(LANES):
            top[r], total[r], drawn[r] = eta[first, r], 0.0, 0.0
        for i in range(first + 1, first + levels):
            for r in range(LANES):
                top[r] = max(top[r], eta[i, r])
        for i in range(first, first + levels):
            power = block.curvature[i]
            for r in range(LANES):
                power[r] = power_of_two(_TO_EXPONENT * (eta[i, r] - top[r]))
                total[r] += power[r]
                drawn[r] += y[i, r]
        for r in range(LANES):
            top[r] += natural_log(total[r])
            total[r] = 1.0 / total[r]
        for i in range(first, first + levels):
            p = block.curvature[i]
            for r in range(LANES):
                p[r] *= total[r]
        mean = memory.means[first // levels * latent_dim : (first // levels + 1) * latent_dim]
        mean[:] = 0
        of_column = block.curvature[first : first + levels]
        add_products(mean, 0, latent_dim, memory.loading, 0, first, of_column, levels)
        for i in range(first, first + levels):
            p, variance, residual = block.curvature[i], memory.variance[i], block.residual[i]
            for r in range(LANES):
                w, times = weight[r], weight[r] * y[i, r]
                # A level of probability zero that is not there counts as 0.
                block.loss[r] += times * (top[r] - eta[i, r]) if times > 0 else 0.0
                residual[r] = times - w * drawn[r] * p[r]
                w *= block.present[r]
                variance[r] = w * p[r] * (1.0 - p[r])
                p[r] *= w * drawn[r]
        for r in range(LANES):
            total[r] = weight[r] * drawn[r] * block.present[r]
        place = 0
        for j in range(latent_dim):
            for k in range(j + 1):
                for r in range(LANES):
                    information[place, r] -= total[r] * mean[j, r] * mean[k, r]
                place += 1
    for begin in range(0, len(rows), GROUP):
        add_information(rows, begin, min(GROUP, len(rows) - begin), block)


@numba.njit(**OPTIONS)
def _find_slopes(rows, levels, gradients, block, memory, to_means):
    """The slopes of the log determinants in the linear predictors, from the forms of loadings.

    What reaches the loadings through their means is added to the sums over rows.
    """
    whole_registers()
    through, crossed = memory.through, memory.crossed
    moments, forms, latent_dim = block.moments, block.third, rows.shape[1]
    of_mean, average, weight = memory.numbers[0], memory.numbers[1], memory.numbers[2]
    for first in range(0, len(rows), levels):
        mean = memory.means[first // levels * latent_dim : (first // levels + 1) * latent_dim]
        of_mean[:] = 0
        for j in range(latent_dim):
            through[j] = 0
            for k in range(latent_dim):
                place = j * (j + 1) // 2 + k if k <= j else k * (k + 1) // 2 + j
                for r in range(LANES):
                    through[j, r] += moments[place, r] * mean[k, r]
            for r in range(LANES):
                of_mean[r] += through[j, r] * mean[j, r]
        crossed[:] = 0
        add_products(crossed, 0, levels, rows, first, 0, through, latent_dim)
        average[:] = 0
        weight[:] = _TINY
        for c in range(levels):
            form, q = forms[first + c], block.curvature[first + c]
            for r in range(LANES):
                form[r] += of_mean[r] - 2 * crossed[c, r]
                average[r] += q[r] * form[r]
                weight[r] += q[r]
        for r in range(LANES):
            average[r] /= weight[r]
        for c in range(levels):
            form, q = forms[first + c], block.curvature[first + c]
            for r in range(LANES):
                form[r] = q[r] * (form[r] - average[r])
        for j in range(latent_dim):
            for r in range(LANES):
                through[j, r] *= gradients[1, r]
            for c in range(levels):
                to_means[first + c, j] += _dot(block.curvature[first + c], through[j])
    reached = block.vectors[2]
    reached[:] = 0
    add_products(reached, 0, latent_dim, memory.loading, 0, 0, block.third, len(rows))


@numba.njit(**IN_ANY_ORDER)
def _dot(x, y):
    total = 0.0
    for r in range(LANES):
        total += x[r] * y[r]
    return total


@numba.njit(**OPTIONS)
def _find_gradients(rows, levels, gradients, block, memory):
    """Gradients in the linear predictors, in place of the slopes.

    The probabilities are multiplied by the gradient in half the log determinants.
    """
    whole_registers()
    along, u = memory.variance, block.vectors[1]
    average, weight = memory.numbers[1], memory.numbers[2]
    along[:] = 0
    add_products(along, 0, len(rows), rows, 0, 0, u, rows.shape[1])
    for first in range(0, len(rows), levels):
        average[:] = 0
        weight[:] = _TINY
        for i in range(first, first + levels):
            q = block.curvature[i]
            for r in range(LANES):
                average[r] += q[r] * along[i, r]
                weight[r] += q[r]
        for r in range(LANES):
            average[r] /= weight[r]
        for i in range(first, first + levels):
            third, q, residual = block.third[i], block.curvature[i], block.residual[i]
            for r in range(LANES):
                third[r] = (
                    gradients[0, r] * residual[r]
                    + 0.5 * gradients[1, r] * third[r]
                    - q[r] * (along[i, r] - average[r])
                )
                q[r] *= gradients[1, r]
