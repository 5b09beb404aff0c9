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

from pyro_expfam.deq.cpu.compilation import INLINED, OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.cpu_table import CpuTable, entries, separate_design
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
    """The evidence of rows at latents ``z`` ``(N, l)``, without gradients."""
    num_rows, latent_dim = z.shape
    table, found = table_of(problem), _empty(num_rows, latent_dim)
    work = partial(_find_values, table, double(z), SMALLEST_PIVOT[torch.float64], *found[:3])
    in_threads(work, spans(num_rows, problem.num_features, ENTRIES_TO_SOLVE))
    return LaplaceRows(*map(torch.from_numpy, found))


def laplace_sums(
    problem: LatentProblem, z: Tensor, of_likelihood: Tensor, of_log_det: Tensor
) -> LaplaceSums:
    """The evidence of rows at their root, the gradient of a function of it, and the information.

    Args:
        problem: the problem of the latents.
        z: its root, ``(N, l)``.
        of_likelihood: the gradient of the function in minus the losses, ``(N,)``.
        of_log_det: its gradient in half the log determinants, ``(N,)``.
    """
    num_rows, latent_dim = z.shape
    table, found = table_of(problem), _empty(num_rows, latent_dim)
    work = partial(
        _find_sums,
        table,
        double(z),
        double(of_likelihood),
        double(of_log_det),
        SMALLEST_PIVOT[torch.float64],
        *found,
    )
    parts = in_threads(work, spans(num_rows, problem.num_features, ENTRIES_TO_SOLVE))
    to_predictors, to_latents, moments, spread = (
        torch.from_numpy(np.sum(x, 0)[: problem.num_features]) for x in zip(*parts, strict=True)
    )
    packed = latent_dim * (latent_dim + 1) // 2
    W = problem.map.loading.double()
    by_spread = (unpacked(spread[:, :packed], latent_dim) @ W.unsqueeze(-1)).squeeze(-1)
    coefficients = to_predictors[:, : latent_dim + 1].clone()
    coefficients[:, :latent_dim] += to_latents[:, :latent_dim] + by_spread
    of_design = moments[:, packed : packed + (latent_dim + 1) * (latent_dim + 2) // 2]
    information = unpacked(of_design, latent_dim + 1)
    information[:, :latent_dim, :latent_dim] += unpacked(moments[:, :packed], latent_dim)
    return LaplaceSums(
        LaplaceRows(*map(torch.from_numpy, found)),
        coefficients,
        information,
    )


def table_of(problem: LatentProblem) -> CpuTable:
    """A problem as the kernels read it, with coefficients in float64."""
    exact = problem.with_fields(
        {name: problem.fields[name].double() for name in ("W", "b", "precision")}
    )
    return CpuTable(
        separate_design(exact),
        problem.statistic.contiguous().numpy(),
        entries(problem.offset, problem.b),
        entries(problem.weights, problem.b),
    )


def double(x: Tensor) -> np.ndarray:
    """A tensor as the kernels read it."""
    found: np.ndarray = x.double().contiguous().numpy()
    return found


def _empty(num_rows: int, latent_dim: int) -> LaplaceRows:
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
        residual: weighted residuals of all features.
        curvature: their weighted variances.
        third: their weighted third cumulants.
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
def empty_block(table, latent_dim):
    """Memory for a block of rows."""
    num_features = len(table.design.rows)
    packed = latent_dim * (latent_dim + 1) // 2
    products = (latent_dim + 1) * (latent_dim + 2) // 2
    like = np.zeros(0)
    by_feature = np.zeros((3, padded(num_features), STRIDE))
    return _Block(
        np.zeros(LANES, np.int64),
        np.zeros(LANES),
        np.zeros((latent_dim + 1, LANES)),
        np.zeros((num_features, STRIDE)),
        np.full(LANES, -1),
        by_feature[0],
        by_feature[1],
        by_feature[2],
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
def _find_values(table, z, smallest_pivot, loss, log_det, resolved, begin, end):
    """Losses and log determinants of the rows from ``begin`` to ``end``."""
    latent_dim = z.shape[1]
    block = empty_block(table, latent_dim)
    factor = block.factor
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        find_losses(table, block)
        for lane in range(0, LANES, factor.shape[1]):
            factorise(block.information, latent_dim, lane, smallest_pivot, factor, block.resolved)
            _find_log_det(factor, latent_dim, lane, block.log_det)
        for r in range(min(LANES, end - first)):
            loss[first + r], log_det[first + r] = block.loss[r], block.log_det[r]
            resolved[first + r] = block.resolved[r]


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
    """The parts of the rows from ``begin`` to ``end``, and what they add to the sums."""
    latent_dim = table.design.rows.shape[1]
    block = empty_block(table, latent_dim)
    height, width = len(block.residual), block.vectors.shape[1]
    to_predictors, to_latents = np.zeros((height, width)), np.zeros((height, width))
    moments = np.zeros((height, len(block.moments)))
    spread = np.zeros((height, padded(len(block.information))))
    gradients = np.zeros((2, LANES))
    traces = np.zeros(LANES)
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        for r in range(LANES):
            gradients[0, r] = of_likelihood[block.row[r]] * block.present[r]
            gradients[1, r] = of_log_det[block.row[r]] * block.present[r]
        find_losses(table, block)
        find_moments(latent_dim, smallest_pivot, block, traces)
        _find_latents(table, gradients, block)
        add_dots(moments, block.curvature, block.moments)
        _find_gradients(table, gradients, block)
        # The latents and 1, and what goes through the latents.
        add_dots(to_predictors, block.third, block.vectors[0])
        add_dots(to_latents, block.residual, block.vectors[1])
        add_dots(spread, block.curvature, block.moments)
        for r in range(min(LANES, end - first)):
            s = first + r
            loss[s], log_det[s], resolved[s] = block.loss[r], block.log_det[r], block.resolved[r]
            trace[s] = traces[r]
            for k in range(latent_dim):
                u[s, k] = block.vectors[1, k, r]
    return to_predictors, to_latents, moments, spread


@numba.njit(**OPTIONS)
def find_losses(table, block):
    """Losses, the derivatives of the losses, and the information of all lanes."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    exponent_rows, intercept = design.exponent_rows, design.exponent_intercept
    rows, unit, law = design.rows, design.unit, design.law
    mean_scale, variance_scale, ones = design.mean_scale, design.variance_scale, block.ones
    memory, panel, information = block.memory, block.panel, block.information
    exponent, mean, variance = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    row, y, latent_dim = block.row, block.y, rows.shape[1]
    begin_sums(design.precision, block.vectors[3, :latent_dim], information)
    block.loss[:] = 0
    weight = np.ones(LANES)
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(
            exponent_rows, intercept, offset, unit, begin, count, row, block.z, exponent
        )
        separate_moments(law, exponent, count, mean, variance)
        for c in range(count):
            i = begin + c
            if len(weights):
                column = min(i, weights.shape[1] - 1)
                by_row = 1 if len(weights) > 1 else 0
                for r in range(LANES):
                    weight[r] = weights[by_row * row[r], column]
            _differentiate(
                law,
                mean_scale[i],
                variance_scale[i],
                1 / unit,
                exponent[c],
                mean[c],
                variance[c],
                weight,
                block.present,
                y[i],
                block.loss,
                block.residual[i],
                block.curvature[i],
                block.third[i],
            )
        load_panel(rows, ones, ones, begin, count, panel)
        add_products(
            information,
            0,
            len(information),
            panel,
            2 * latent_dim,
            0,
            block.curvature[begin : begin + count],
            count,
        )


@numba.njit(**INLINED)
def _differentiate(
    law,
    mean_scale,
    variance_scale,
    to_natural,
    exponent,
    mean,
    variance,
    weight,
    present,
    y,
    loss,
    residual,
    curvature,
    third,
):
    """Adds the losses of a feature, and writes their derivatives."""
    if law.kind == EXPONENTIAL:
        for r in range(LANES):
            eta = to_natural * exponent[r]
            loss[r] += weight[r] * (mean_scale * mean[r] - y[r] * eta)
            residual[r] = weight[r] * (y[r] - mean_scale * mean[r])
            curvature[r] = present[r] * weight[r] * variance_scale * variance[r]
            third[r] = curvature[r]
    elif law.kind == IDENTITY:
        # Half the squared residual: the parts of the loss would cancel where noise is small.
        for r in range(LANES):
            rest = y[r] - to_natural * exponent[r]
            loss[r] += weight[r] * 0.5 * rest * rest
            residual[r] = weight[r] * rest
            curvature[r] = present[r] * weight[r]
            third[r] = 0
    else:
        for r in range(LANES):
            eta = to_natural * exponent[r]
            power = power_of_two(-abs(exponent[r]))
            partition = (eta if eta > 0 else 0.0) + natural_log(1.0 + power)
            loss[r] += weight[r] * (mean_scale * partition - y[r] * eta)
            residual[r] = weight[r] * (y[r] - mean_scale * mean[r])
            curvature[r] = present[r] * weight[r] * variance_scale * variance[r]
            third[r] = curvature[r] * (1.0 - 2.0 * mean[r])


@numba.njit(**OPTIONS)
def _find_log_det(factor, latent_dim, lane, log_det):
    """Log determinants of lanes from ``lane`` on."""
    for r in range(factor.shape[1]):
        log_det[lane + r] = 0
        for k in range(latent_dim):
            # The diagonal holds reciprocals.
            log_det[lane + r] -= 2 * math.log(factor[k * (k + 3) // 2, r])


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
def _find_latents(table, gradients, block):
    r"""The gradient that reaches the latents times the inverse of the information.

    The third cumulants are multiplied by the posterior variances of the linear predictors.
    """
    whole_registers()
    rows, moments, panel, forms = table.design.rows, block.moments, block.panel, block.memory
    latent_dim, packed = rows.shape[1], len(block.information)
    reached, u = block.vectors[2], block.vectors[1]
    products = np.zeros((GROUP, packed))
    reached[:] = 0
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        for c in range(count):
            for j in range(latent_dim):
                own, place = rows[begin + c, j], j * (j + 1) // 2
                for k in range(j):
                    products[c, place + k] = 2 * own * rows[begin + c, k]
                products[c, place + j] = own * own
                panel[j, c] = own
        forms[:count] = 0
        add_products(forms, 0, count, products, 0, 0, moments, packed)
        third = block.third[begin : begin + count]
        for c in range(count):
            for r in range(LANES):
                third[c, r] *= forms[c, r]
        add_products(reached, 0, latent_dim, panel, 0, 0, third, count)
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
def _find_gradients(table, gradients, block):
    """Gradients in the linear predictors, in place of the third cumulants.

    The curvatures are multiplied by the gradient in half the log determinants.
    """
    whole_registers()
    rows, along, u = table.design.rows, block.memory, block.vectors[1]
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
