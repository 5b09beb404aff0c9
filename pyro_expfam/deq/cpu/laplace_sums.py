r"""The Laplace evidence of many rows at once and its gradient, compiled by Numba.

Lanes hold rows as in :mod:`~pyro_expfam.deq.cpu.evaluation`. Everything is computed in float64. A
block of rows passes the features three times: for the losses and the information, for the
posterior variances of the linear predictors, and for the sums over rows.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.dots import SIDE, add_dots
from pyro_expfam.deq.cpu.evaluation import (
    GROUP,
    LANES,
    SHARED,
    STRIDE,
    begin_sums,
    linear_predictors,
    load_panel,
    panel_memory,
)
from pyro_expfam.deq.cpu.evidence_table import evidence_table
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.linear_algebra import factor_memory, factorise, substitute
from pyro_expfam.deq.cpu.observed import load_observed
from pyro_expfam.deq.cpu.separate_moments import EXPONENTIAL, IDENTITY, separate_moments
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem


class LaplaceRows(NamedTuple):
    r"""What the evidence of each row is made of.

    Attributes:
        loss: :math:`\sum_i \omega_i (A(\eta_i) - T_i \eta_i)`, for real numbers plus
            :math:`T_i^2 / 2`, ``(N,)``.
        log_det: the log determinant of the information, ``(N,)``.
        resolved: whether the information is positive definite to rounding, ``(N,)``.
        trace: the trace of the inverse of the information, ``(N,)``.
        u: what the gradients through the latents are made of: the inverse of the information times
            the gradient that reaches the latents, ``(N, l)``.
    """

    loss: Any
    log_det: Any
    resolved: Any
    trace: Any
    u: Any


class LaplaceSums(NamedTuple):
    """Sums over rows.

    Attributes:
        rows: the parts of each row.
        coefficients: gradients of loading and intercept, ``(d, l + 1)``.
        information: as :func:`~pyro_expfam.coefficients.information.complete_information`,
            ``(d, l + 1, l + 1)``.
    """

    rows: LaplaceRows
    coefficients: Tensor
    information: Tensor


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """The evidence of rows at latents ``z`` ``(N, l)``, without gradients.

    The problem is in float64.
    """
    nothing = torch.zeros(0, dtype=torch.float64)
    found, _ = _compute(problem, z, nothing, nothing)
    return LaplaceRows(*map(torch.from_numpy, found))


def laplace_sums(
    problem: LatentProblem, z: Tensor, of_likelihood: Tensor, of_log_det: Tensor
) -> LaplaceSums:
    """The evidence of rows at their root, the gradient of a function of it, and the information.

    Args:
        problem: the problem of the latents, in float64.
        z: its root, ``(N, l)``.
        of_likelihood: the gradient of the function in minus the losses, ``(N,)``.
        of_log_det: its gradient in half the log determinants, ``(N,)``.
    """
    return as_sums(problem, *_compute(problem, z, of_likelihood, of_log_det))


def _compute(
    problem: LatentProblem, z: Tensor, of_likelihood: Tensor, of_log_det: Tensor
) -> tuple[LaplaceRows, Any]:
    found = empty_rows(*z.shape)
    work = partial(
        _find_sums,
        evidence_table(problem),
        double(z),
        double(of_likelihood),
        double(of_log_det),
        SMALLEST_PIVOT[torch.float64],
        *found,
    )
    return found, in_threads(work, spans(len(z), problem.num_features, ENTRIES_TO_SOLVE))


def as_sums(problem: LatentProblem, found: LaplaceRows, parts: Any) -> LaplaceSums:
    """The sums over rows from the sums of each thread."""
    latent_dim = problem.latent_dim
    to_predictors, to_latents, moments, spread = (
        torch.from_numpy(np.sum(x, 0)[: problem.num_features]) for x in zip(*parts, strict=True)
    )
    packed = latent_dim * (latent_dim + 1) // 2
    W = problem.map.loading
    by_spread = (unpacked(spread[:, :packed], latent_dim) @ W.unsqueeze(-1)).squeeze(-1)
    coefficients = to_predictors[:, : latent_dim + 1].clone()
    coefficients[:, :latent_dim] += to_latents[:, :latent_dim] + by_spread
    of_design = moments[:, packed : packed + (latent_dim + 1) * (latent_dim + 2) // 2]
    information = unpacked(of_design, latent_dim + 1)
    information[:, :latent_dim, :latent_dim] += unpacked(moments[:, :packed], latent_dim)
    return LaplaceSums(LaplaceRows(*map(torch.from_numpy, found)), coefficients, information)


def double(x: Tensor) -> np.ndarray:
    """A tensor as the kernels read it."""
    found: np.ndarray = x.double().contiguous().numpy()
    return found


def empty_rows(num_rows: int, latent_dim: int) -> LaplaceRows:
    """Memory for the parts of rows."""
    loss, log_det, trace = np.zeros((3, num_rows))
    u = np.zeros((num_rows, latent_dim))
    return LaplaceRows(loss, log_det, np.zeros(num_rows, np.bool_), trace, u)


def unpacked(packed: Tensor, size: int) -> Tensor:
    """Symmetric matrices of their lower triangles ``(..., size (size + 1) / 2)``."""
    position = torch.arange(size)
    larger = torch.maximum(position[:, None], position)
    smaller = torch.minimum(position[:, None], position)
    return packed[..., larger * (larger + 1) // 2 + smaller]


class _Block(NamedTuple):
    """Memory for a block of rows; the last dimension runs over lanes.

    Attributes:
        row: the row that a lane holds.
        present: 1, or 0 for lanes beyond the last row.
        z: latents.
        y: their sufficient statistics.
        loaded: the rows whose statistics are there.
        residual: minus the weighted slopes of the losses of all features.
        curvature: their weighted second derivatives.
        third: their weighted third derivatives.
        fourth: the fourth, or no features if they are not wanted.
        fifth: the fifth, likewise.
        derivatives: losses of a feature and their derivatives.
        information: packed lower triangles.
        moments: packed inverses of the information, and packed products of ``(z, 1)``.
        vectors: vectors over the latents: ``(z, 1)``, what goes through the latents, and others.
        memory: memory of a group of features.
        panel: as :func:`~pyro_expfam.deq.cpu.evaluation.load_panel` fills it.
        factor: memory for factors of the information.
        ones: a one for every feature.
        loss: losses of the rows.
        log_det: log determinants of the information.
        resolved: whether it is positive definite to rounding.
    """

    row: Any
    present: Any
    z: Any
    y: Any
    loaded: Any
    residual: Any
    curvature: Any
    third: Any
    fourth: Any
    fifth: Any
    derivatives: Any
    information: Any
    moments: Any
    vectors: Any
    memory: Any
    panel: Any
    factor: Any
    ones: Any
    loss: Any
    log_det: Any
    resolved: Any


@numba.njit(**OPTIONS)
def padded(number):
    """The next multiple of a tile's side."""
    return -(-number // SIDE) * SIDE


@numba.njit(**OPTIONS)
def empty_block(table, latent_dim, order):
    """Memory for a block of rows, and derivatives up to an order, 3 or 5."""
    num_features = len(table.design.rows)
    packed = latent_dim * (latent_dim + 1) // 2
    products = (latent_dim + 1) * (latent_dim + 2) // 2
    like = np.zeros(0)
    by_feature = np.zeros((3, padded(num_features), STRIDE))
    higher = np.zeros((2, num_features if order > 3 else 0, STRIDE))
    return _Block(
        np.zeros(LANES, np.int64),
        np.zeros(LANES),
        np.zeros((latent_dim + 1, LANES)),
        np.zeros((num_features, STRIDE)),
        np.full(LANES, -1),
        by_feature[0],
        by_feature[1],
        by_feature[2],
        higher[0],
        higher[1],
        np.zeros((6, LANES)),
        np.zeros((packed, STRIDE)),
        np.zeros((padded(packed + products), STRIDE)),
        np.zeros((4, padded(latent_dim + 1), STRIDE)),
        np.zeros((SHARED, LANES)),
        panel_memory(latent_dim, like),
        factor_memory(latent_dim, like),
        np.ones(num_features),
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES, np.bool_),
    )


@numba.njit(**OPTIONS)
def load_block(table, z, first, end, block):
    """Puts rows from ``first`` on into the lanes."""
    for r in range(LANES):
        block.row[r] = min(first + r, end - 1)
        block.present[r] = 1.0 if first + r < end else 0.0
        for k in range(z.shape[1]):
            block.z[k, r] = z[block.row[r], k]
    load_observed(table.observed, block.row, block.y, block.loaded)


@compiled_once
def _find_sums(
    table,
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
    latent_dim = z.shape[1]
    block = empty_block(table, latent_dim, 3)
    height, width = len(block.residual), block.vectors.shape[1]
    to_predictors, to_latents = np.zeros((height, width)), np.zeros((height, width))
    moments = np.zeros((height, len(block.moments)))
    spread = np.zeros((height, padded(len(block.information))))
    gradients, traces = np.zeros((2, LANES)), np.zeros(LANES)
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        find_losses(table, block)
        if len(of_likelihood):
            load_gradients(of_likelihood, of_log_det, block, gradients)
            find_moments(latent_dim, smallest_pivot, block, traces)
            find_forms(table.design.rows, block, block.third)
            _find_reached(table.design.rows, block)
            solve_latents(gradients, block)
            add_dots(moments, block.curvature, block.moments)
            _find_gradients(table.design.rows, gradients, block)
            # The latents and 1, and what goes through the latents.
            add_dots(to_predictors, block.third, block.vectors[0])
            add_dots(to_latents, block.residual, block.vectors[1])
            add_dots(spread, block.curvature, block.moments)
        else:
            find_log_dets(latent_dim, smallest_pivot, block)
        keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u)
    return to_predictors, to_latents, moments, spread


@numba.njit(**OPTIONS)
def load_gradients(of_likelihood, of_log_det, block, gradients):
    """Puts the gradients of rows into the lanes, zero in lanes without a row of their own."""
    for r in range(LANES):
        gradients[0, r] = of_likelihood[block.row[r]] * block.present[r]
        gradients[1, r] = of_log_det[block.row[r]] * block.present[r]


@numba.njit(**OPTIONS)
def keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u):
    """Writes the parts of the rows that the lanes hold."""
    for r in range(min(LANES, end - first)):
        s = first + r
        loss[s], log_det[s], resolved[s] = block.loss[r], block.log_det[r], block.resolved[r]
        trace[s] = traces[r]
        for k in range(u.shape[1]):
            u[s, k] = block.vectors[1, k, r]


@numba.njit(**OPTIONS)
def find_losses(table, block):
    """Losses, the derivatives of the losses, and the information of all lanes."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    exponent_rows, intercept = design.exponent_rows, design.exponent_intercept
    rows, unit, law = design.rows, design.unit, design.law
    parameters, found, memory = design.parameters, block.derivatives, block.memory
    exponent, mean, variance = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    row, y, latent_dim = block.row, block.y, rows.shape[1]
    begin_sums(design.precision, block.vectors[3, :latent_dim], block.information)
    block.loss[:] = 0
    weight = np.ones(LANES)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(
            exponent_rows, intercept, offset, unit, begin, count, row, block.z, exponent
        )
        if design.function == 0:
            separate_moments(law, exponent, count, mean, variance)
        for c in range(count):
            i = begin + c
            if len(weights):
                column = min(i, weights.shape[1] - 1)
                by_row = 1 if len(weights) > 1 else 0
                for r in range(LANES):
                    weight[r] = weights[by_row * row[r], column]
            if design.function == 0:
                _from_moments(
                    law.kind,
                    parameters[i, 0],
                    1 / unit,
                    exponent[c],
                    mean[c],
                    variance[c],
                    y[i],
                    found,
                )
            else:
                call(design.function, exponent[c], y[i], parameters[i], found, parameters.shape[1])
            _weigh(i, weight, block)
        add_information(rows, begin, count, block)


@numba.njit(**OPTIONS)
def add_information(rows, begin, count, block):
    """Adds the information of a group of features."""
    ones, panel, information = block.ones, block.panel, block.information
    load_panel(rows, ones, ones, begin, count, panel)
    curvature = block.curvature[begin : begin + count]
    add_products(information, 0, len(information), panel, 2 * rows.shape[1], 0, curvature, count)


@numba.njit(**OPTIONS)
def _weigh(i, weight, block):
    """Adds the weighted losses of a feature, and keeps their derivatives."""
    whole_registers()
    found, present, loss = block.derivatives, block.present, block.loss
    residual, curvature, third = block.residual[i], block.curvature[i], block.third[i]
    for r in range(LANES):
        w = weight[r]
        # The loss of an entry without weight may be infinite.
        loss[r] += w * found[0, r] if w > 0 else 0.0
        residual[r] = -w * found[1, r] if w > 0 else 0.0
        w = present[r] * w
        curvature[r] = w * found[2, r] if w > 0 else 0.0
        third[r] = w * found[3, r] if w > 0 else 0.0
    if len(block.fourth):
        fourth, fifth = block.fourth[i], block.fifth[i]
        for r in range(LANES):
            w = present[r] * weight[r]
            fourth[r] = w * found[4, r] if w > 0 else 0.0
            fifth[r] = w * found[5, r] if w > 0 else 0.0


@numba.njit(**OPTIONS)
def _from_moments(kind, size, to_natural, exponent, mean, variance, y, found):
    """Losses of bits, counts or real numbers and their derivatives, from mean and variance."""
    whole_registers()
    if kind == EXPONENTIAL:
        for r in range(LANES):
            rate = size * mean[r]
            found[0, r] = rate - y[r] * (to_natural * exponent[r])
            found[1, r] = rate - y[r]
            for k in range(2, 6):
                found[k, r] = rate
    elif kind == IDENTITY:
        # Half the squared residual: the parts of the loss would cancel where noise is small.
        for r in range(LANES):
            rest = y[r] - to_natural * exponent[r]
            found[0, r], found[1, r], found[2, r] = 0.5 * rest * rest, -rest, 1.0
            found[3, r], found[4, r], found[5, r] = 0.0, 0.0, 0.0
    else:
        for r in range(LANES):
            eta = to_natural * exponent[r]
            power = power_of_two(-abs(exponent[r]))
            partition = (eta if eta > 0 else 0.0) + natural_log(1.0 + power)
            found[0, r] = size * partition - y[r] * eta
            found[1, r] = size * mean[r] - y[r]
            curvature, ratio = size * variance[r], 1.0 - 2.0 * mean[r]
            found[2, r] = curvature
            found[3, r] = curvature * ratio
            found[4, r] = curvature * (1.5 * ratio * ratio - 0.5)
            found[5, r] = curvature * ratio * (3 * ratio * ratio - 2)


@numba.njit(**OPTIONS)
def _find_log_det(factor, latent_dim, lane, log_det):
    """Log determinants of lanes from ``lane`` on."""
    for r in range(factor.shape[1]):
        log_det[lane + r] = 0
        for k in range(latent_dim):
            # The diagonal holds reciprocals.
            log_det[lane + r] -= 2 * math.log(factor[k * (k + 3) // 2, r])


@numba.njit(**OPTIONS)
def find_log_dets(latent_dim, smallest_pivot, block):
    """Log determinants of the information of all lanes."""
    factor = block.factor
    for lane in range(0, LANES, factor.shape[1]):
        factorise(block.information, latent_dim, lane, smallest_pivot, factor, block.resolved)
        _find_log_det(factor, latent_dim, lane, block.log_det)


@numba.njit(**OPTIONS)
def find_moments(latent_dim, smallest_pivot, block, traces):
    """Log determinants, inverses of the information and products of the latents of all lanes."""
    whole_registers()
    factor, moments, vectors = block.factor, block.moments, block.vectors
    unit_vector, solution = vectors[2], vectors[3]
    for lane in range(0, LANES, factor.shape[1]):
        factorise(block.information, latent_dim, lane, smallest_pivot, factor, block.resolved)
        _find_log_det(factor, latent_dim, lane, block.log_det)
        for k in range(latent_dim):
            # Lane by lane: compiling slices takes longer than all else here.
            for j in range(latent_dim):
                for r in range(lane, lane + factor.shape[1]):
                    unit_vector[j, r] = 1.0 if j == k else 0.0
            substitute(factor, unit_vector, latent_dim, lane, solution)
            for j in range(k, latent_dim):
                place = j * (j + 1) // 2 + k
                for r in range(lane, lane + factor.shape[1]):
                    moments[place, r] = solution[j, r]
    traces[:] = 0
    for k in range(latent_dim):
        for r in range(LANES):
            traces[r] += moments[k * (k + 3) // 2, r]
    for k in range(latent_dim + 1):
        for r in range(LANES):
            vectors[0, k, r] = block.z[k, r] if k < latent_dim else 1.0
    place = len(block.information)
    for j in range(latent_dim + 1):
        for k in range(j + 1):
            for r in range(LANES):
                moments[place, r] = vectors[0, j, r] * vectors[0, k, r]
            place += 1


@numba.njit(**OPTIONS)
def find_forms(rows, block, factors):
    """Multiplies factors of all features by the posterior variances of the linear predictors."""
    whole_registers()
    moments, forms = block.moments, block.memory
    latent_dim, packed = rows.shape[1], len(block.information)
    products = np.zeros((GROUP, packed))
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        for c in range(count):
            for j in range(latent_dim):
                own, place = rows[begin + c, j], j * (j + 1) // 2
                for k in range(j):
                    products[c, place + k] = 2 * own * rows[begin + c, k]
                products[c, place + j] = own * own
        forms[:count] = 0
        add_products(forms, 0, count, products, 0, 0, moments, packed)
        for c in range(count):
            for r in range(LANES):
                factors[begin + c, r] *= forms[c, r]


@numba.njit(**OPTIONS)
def _find_reached(rows, block):
    """The sums of the third derivatives times the forms that reach the latents."""
    panel, reached = block.panel, block.vectors[2]
    reached[:] = 0
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        for c in range(count):
            for j in range(rows.shape[1]):
                panel[j, c] = rows[begin + c, j]
        third = block.third[begin : begin + count]
        add_products(reached, 0, rows.shape[1], panel, 0, 0, third, count)


@numba.njit(**OPTIONS)
def solve_latents(gradients, block):
    """The gradient that reaches the latents times the inverse of the information."""
    whole_registers()
    moments, u, reached = block.moments, block.vectors[1], block.vectors[2]
    latent_dim = len(block.z) - 1
    u[:] = 0
    for j in range(latent_dim):
        for r in range(LANES):
            reached[j, r] *= 0.5 * gradients[1, r]
    for j in range(latent_dim):
        for k in range(latent_dim):
            place = j * (j + 1) // 2 + k if k <= j else k * (k + 1) // 2 + j
            for r in range(LANES):
                u[j, r] += moments[place, r] * reached[k, r]


@numba.njit(**OPTIONS)
def _find_gradients(rows, gradients, block):
    """Gradients in the linear predictors, in place of the third derivatives.

    The curvatures are multiplied by the gradient in half the log determinants.
    """
    whole_registers()
    along, u = block.memory, block.vectors[1]
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        along[:count] = 0
        add_products(along, 0, count, rows, begin, 0, u, rows.shape[1])
        for c in range(count):
            third, curvature = block.third[begin + c], block.curvature[begin + c]
            residual = block.residual[begin + c]
            for r in range(LANES):
                third[r] = (
                    gradients[0, r] * residual[r]
                    + 0.5 * gradients[1, r] * third[r]
                    - curvature[r] * along[c, r]
                )
                curvature[r] *= gradients[1, r]
