r"""The Laplace evidence of many rows at once and its gradient, compiled by Numba.

Lanes hold rows as in :mod:`~pyro_expfam.deq.cpu.evaluation`. Everything is computed in float64. A
block of rows passes the features three times: for the losses and the information, for the
posterior variances of the linear predictors, and for the sums over rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import evidence_activation_of
from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.dots import add_dots
from pyro_expfam.deq.cpu.entry_derivatives import parameters_at
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, linear_predictors
from pyro_expfam.deq.cpu.evidence_block import (
    empty_block,
    keep_rows,
    load_block,
    load_gradients,
    padded,
)
from pyro_expfam.deq.cpu.evidence_losses import find_losses
from pyro_expfam.deq.cpu.evidence_moments import (
    find_forms,
    find_log_dets,
    find_moments,
    solve_latents,
)
from pyro_expfam.deq.cpu.evidence_table import evidence_table
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
        parameters: gradients of the cut points between minus infinity and infinity, ``(d, K + 1)``,
            zero if they are not wanted.
    """

    rows: LaplaceRows
    coefficients: Tensor
    information: Tensor
    parameters: Tensor


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """The evidence of rows at latents ``z`` ``(N, l)``, without gradients.

    The problem is in float64.
    """
    nothing = torch.zeros(0, dtype=torch.float64)
    found, _ = _compute(problem, z, nothing, nothing, 0)
    return LaplaceRows(*map(torch.from_numpy, found))


def laplace_sums(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    with_parameters: bool = False,
) -> LaplaceSums:
    """The evidence of rows at their root, the gradient of a function of it, and the information.

    Args:
        problem: the problem of the latents, in float64.
        z: its root, ``(N, l)``.
        of_likelihood: the gradient of the function in minus the losses, ``(N,)``.
        of_log_det: its gradient in half the log determinants, ``(N,)``.
        with_parameters: whether the gradients in cut points are wanted too.
    """
    activation = evidence_activation_of(problem.family)
    assert activation is not None
    function = parameters_at(activation.name) if with_parameters else 0
    found, parts = _compute(problem, z, of_likelihood, of_log_det, function)
    to_parameters = torch.from_numpy(np.sum([part[-1] for part in parts], 0))
    sums = as_sums(problem, found, [part[:-1] for part in parts])
    return sums._replace(parameters=to_parameters)


def _compute(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    of_parameters: int,
) -> tuple[LaplaceRows, Any]:
    found = empty_rows(*z.shape)
    work = partial(
        _find_sums,
        evidence_table(problem),
        double(z),
        double(of_likelihood),
        double(of_log_det),
        of_parameters,
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
    rows = LaplaceRows(*map(torch.from_numpy, found))
    return LaplaceSums(rows, coefficients, information, coefficients.new_zeros(len(W), 0))


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


@compiled_once
def _find_sums(
    table,
    z,
    of_likelihood,
    of_log_det,
    of_parameters,
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
    block = empty_block(table, latent_dim, 5 if of_parameters else 3)
    to_parameters = np.zeros(table.design.parameters.shape)
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
            if of_parameters:
                # There is memory for the fourth derivatives, which are not wanted here.
                block.fourth[:] = 1
                find_forms(table.design.rows, block, block.fourth)
                _multiply(block.fourth, block.third)
            else:
                find_forms(table.design.rows, block, block.third)
            _find_reached(table.design.rows, block)
            solve_latents(gradients, block)
            add_dots(moments, block.curvature, block.moments)
            if of_parameters:
                _add_of_parameters(table, of_parameters, gradients, block, to_parameters)
            _find_gradients(table.design.rows, gradients, block)
            # The latents and 1, and what goes through the latents.
            add_dots(to_predictors, block.third, block.vectors[0])
            add_dots(to_latents, block.residual, block.vectors[1])
            add_dots(spread, block.curvature, block.moments)
        else:
            find_log_dets(latent_dim, smallest_pivot, block)
        keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u)
    return to_predictors, to_latents, moments, spread, to_parameters


@numba.njit(**OPTIONS)
def _multiply(factors, entries):
    for i in range(len(factors)):
        for r in range(LANES):
            entries[i, r] *= factors[i, r]


@numba.njit(**OPTIONS)
def _add_of_parameters(table, function, gradients, block, total):
    """Adds the gradients in the parameters of all features."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    rows, row, u = design.rows, block.row, block.vectors[1]
    eta, along, inputs = block.memory[:GROUP], block.memory[GROUP : 2 * GROUP], np.zeros((4, LANES))
    weight = block.present.copy()
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        linear_predictors(
            rows, design.exponent_intercept, offset, 1.0, begin, count, row, block.z, eta
        )
        along[:count] = 0
        add_products(along, 0, count, rows, begin, 0, u, rows.shape[1])
        for c in range(count):
            i = begin + c
            if len(weights):
                column = min(i, weights.shape[1] - 1)
                by_row = 1 if len(weights) > 1 else 0
                for r in range(LANES):
                    weight[r] = block.present[r] * weights[by_row * row[r], column]
            for r in range(LANES):
                inputs[0, r], inputs[1, r] = eta[c, r], weight[r] * gradients[0, r]
                inputs[2, r] = 0.5 * weight[r] * gradients[1, r] * block.fourth[i, r]
                inputs[3, r] = weight[r] * along[c, r]
            call(function, inputs, block.y[i], design.parameters[i], total[i], total.shape[1])


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
