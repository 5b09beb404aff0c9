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

from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.dots import add_dots
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, STRIDE
from pyro_expfam.deq.cpu.evidence_block import (
    empty_block,
    keep_entries,
    keep_rows,
    load_block,
    load_gradients,
    padded,
)
from pyro_expfam.deq.cpu.evidence_levels import add_through_latents, find_slopes_of_levels
from pyro_expfam.deq.cpu.evidence_losses import find_losses
from pyro_expfam.deq.cpu.evidence_moments import (
    find_forms,
    find_log_dets,
    find_moments,
    solve_latents,
)
from pyro_expfam.deq.cpu.evidence_parameters import (
    NO_FUNCTIONS,
    add_of_parameters,
    functions_of_parameters,
)
from pyro_expfam.deq.cpu.evidence_table import evidence_table, laws_of, order_of
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.packed import SMALLEST_PIVOT, places_in_triangle
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
        coefficients: gradients of loading, intercept and coefficients of covariates,
            ``(d, l + 1 + p)``.
        information: as :func:`~pyro_expfam.coefficients.information.complete_information`,
            ``(d, l + 1 + p, l + 1 + p)``.
        parameters: gradients of what the laws know of each feature, ``(d, m)``, zero if they are
            not wanted: of a parameter of the family, or of the cut points between minus infinity
            and infinity.
        offset: gradients of the linear predictors of each row, ``(N, d)``, or nothing.
    """

    rows: LaplaceRows
    coefficients: Tensor
    information: Tensor
    parameters: Tensor
    offset: Tensor


class OtherGradients(NamedTuple):
    """Which gradients of a function of rows are wanted beside the gradients of coefficients.

    Attributes:
        parameters: whether gradients of parameters of the family are.
        offset: whether gradients of each linear predictor are.
    """

    parameters: bool = False
    offset: bool = False


NO_OTHERS = OtherGradients()
"""The gradients of coefficients alone."""


def laplace_rows(problem: LatentProblem, z: Tensor) -> LaplaceRows:
    """The evidence of rows at latents ``z`` ``(N, l)``, without gradients.

    The problem is in float64.
    """
    nothing = torch.zeros(0, dtype=torch.float64)
    found, _, _ = _compute(problem, z, nothing, nothing, NO_OTHERS)
    return LaplaceRows(*map(torch.from_numpy, found))


def laplace_sums(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    wanted: OtherGradients = NO_OTHERS,
) -> LaplaceSums:
    """The evidence of rows at their root, the gradient of a function of it, and the information.

    Args:
        problem: the problem of the latents, in float64.
        z: its root, ``(N, l)``.
        of_likelihood: the gradient of the function in minus the losses, ``(N,)``.
        of_log_det: its gradient in half the log determinants, ``(N,)``.
        wanted: which other gradients are wanted.
    """
    found, parts, offset = _compute(problem, z, of_likelihood, of_log_det, wanted)
    sums = _as_sums(problem, found, parts, torch.from_numpy(offset))
    order = order_of(laws_of(problem))
    if order is None:
        return sums
    own = order.argsort()
    return LaplaceSums(
        sums.rows,
        sums.coefficients[own],
        sums.information[own],
        sums.parameters[own],
        sums.offset[:, own] if wanted.offset else sums.offset,
    )


def _compute(
    problem: LatentProblem,
    z: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    wanted: OtherGradients,
) -> tuple[LaplaceRows, Any, np.ndarray]:
    found = empty_rows(*z.shape)
    offset = np.zeros(problem.y.shape if wanted.offset else (0, 0))
    work = partial(
        _find_sums,
        evidence_table(problem),
        double(z),
        double(of_likelihood),
        double(of_log_det),
        functions_of_parameters(problem) if wanted.parameters else NO_FUNCTIONS,
        SMALLEST_PIVOT[torch.float64],
        offset,
        *found,
    )
    parts = in_threads(work, spans(len(z), problem.num_features, ENTRIES_TO_SOLVE))
    return found, parts, offset


def _as_sums(problem: LatentProblem, found: LaplaceRows, parts: Any, offset: Tensor) -> LaplaceSums:
    """The sums over rows from the sums of each thread, in the order of the arrays."""
    size, number = problem.latent_dim, problem.num_coefficients
    to_predictors, to_latents, moments, spread, to_means, to_parameters = (
        torch.from_numpy(np.sum(x, 0)[: problem.num_features]) for x in zip(*parts, strict=True)
    )
    packed = size * (size + 1) // 2
    W, order = problem.map.loading, order_of(laws_of(problem))
    W = W if order is None else W[order]
    by_spread = (unpacked(spread[:, :packed], size) @ W.unsqueeze(-1)).squeeze(-1)
    coefficients = to_predictors[:, :number].clone()
    coefficients[:, :size] += to_latents[:, :size] + by_spread - to_means
    of_design = moments[:, packed : packed + number * (number + 1) // 2]
    information = unpacked(of_design, number)
    information[:, :size, :size] += unpacked(moments[:, :packed], size)
    rows = LaplaceRows(*map(torch.from_numpy, found))
    return LaplaceSums(rows, coefficients, information, to_parameters, offset)


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
    return packed[..., places_in_triangle(size, packed.device)]


@compiled_once
def _find_sums(
    table,
    z,
    of_likelihood,
    of_log_det,
    of_parameters,
    smallest_pivot,
    to_offset,
    loss,
    log_det,
    resolved,
    trace,
    u,
    begin,
    end,
):
    """The parts of rows from ``begin`` to ``end``, and sums if there are gradients of each row."""
    latent_dim, design = z.shape[1], table.design
    rows = design.rows
    block = empty_block(table, latent_dim, 5 if len(of_parameters) else 3)
    to_parameters = np.zeros(design.parameters.shape)
    height = len(block.residual)
    to_predictors = np.zeros((height, len(block.known)))
    to_latents, to_means = np.zeros((height, block.vectors.shape[1])), np.zeros(rows.shape)
    moments = np.zeros((height, len(block.moments)))
    spread = np.zeros((height, padded(len(block.information))))
    gradients, traces, nothing = np.zeros((2, LANES)), np.zeros(LANES), np.zeros((0, STRIDE))
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        find_losses(table, block)
        if len(of_likelihood):
            load_gradients(of_likelihood, of_log_det, block, gradients)
            find_moments(latent_dim, smallest_pivot, block, traces)
            # The forms of levels are in the place of their third derivatives.
            block.third[design.separate : len(rows)] = 1
            if len(of_parameters):
                # There is memory for the fourth derivatives, which are not wanted here.
                block.fourth[:] = 1
                find_forms(rows, block, block.fourth)
                _multiply(block.fourth, block.third)
            else:
                find_forms(rows, block, block.third)
            if len(design.columns):
                find_slopes_of_levels(design, gradients, block, to_means)
            _find_reached(rows, block)
            solve_latents(gradients, block)
            add_dots(moments, block.variance, block.moments)
            if len(of_parameters):
                for i in range(len(rows)):
                    for r in range(LANES):
                        block.fourth[i, r] *= 0.5 * gradients[1, r]
                add_of_parameters(
                    table,
                    of_parameters,
                    block,
                    block.vectors[1],
                    gradients[0],
                    block.fourth,
                    nothing,
                    nothing,
                    to_parameters,
                )
            _find_gradients(design, gradients, block)
            keep_entries(first, end, to_offset, block.third)
            # The latents, 1 and covariates, and what goes through the latents.
            add_dots(to_predictors, block.third, block.known)
            add_dots(to_latents, block.residual, block.vectors[1])
            add_dots(spread, block.curvature, block.moments)
        else:
            find_log_dets(latent_dim, smallest_pivot, block)
        keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u)
    return to_predictors, to_latents, moments, spread, to_means, to_parameters


@numba.njit(**OPTIONS)
def _multiply(factors, entries):
    for i in range(len(factors)):
        for r in range(LANES):
            entries[i, r] *= factors[i, r]


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
def _find_gradients(design, gradients, block):
    """Gradients in the linear predictors, in place of the third derivatives.

    The curvatures are multiplied by the gradient in half the log determinants.
    """
    whole_registers()
    rows, along, u = design.rows, block.memory, block.vectors[1]
    for i in range(len(rows)):
        third, residual = block.third[i], block.residual[i]
        for r in range(LANES):
            third[r] = gradients[0, r] * residual[r] + 0.5 * gradients[1, r] * third[r]
    for begin in range(0, design.separate, GROUP):
        count = min(GROUP, design.separate - begin)
        along[:count] = 0
        add_products(along, 0, count, rows, begin, 0, u, rows.shape[1])
        for c in range(count):
            third, curvature = block.third[begin + c], block.curvature[begin + c]
            for r in range(LANES):
                third[r] -= curvature[r] * along[c, r]
    if len(design.columns):
        # Nothing reads the variances of levels any more.
        block.variance[design.separate : len(rows)] = 0
        first, number = design.separate, len(rows) - design.separate
        add_products(block.variance, first, number, rows, first, 0, u, rows.shape[1])
        add_through_latents(design, block, block.variance, block.third)
    for i in range(len(rows)):
        curvature = block.curvature[i]
        for r in range(LANES):
            curvature[r] *= gradients[1, r]
