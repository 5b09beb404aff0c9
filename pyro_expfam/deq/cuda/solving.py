"""Fisher scoring of blocks of rows, each in one program from the start to the root.

The kernel takes the steps of :class:`~pyro_expfam.deq.FisherScoring`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.cuda.block_rules import (
    damped_length,
    descends,
    first_length,
    is_accepted,
    is_last,
    leaves,
    needs_change,
    reach_after_failure,
    reach_after_step,
    residual,
)
from pyro_expfam.deq.cuda.blocking import row_blocks
from pyro_expfam.deq.cuda.cuda_table import (
    as_cuda_table,
    is_inside,
    read,
    read_features,
    read_rows,
    write_rows,
)
from pyro_expfam.deq.cuda.information import sums_and_information
from pyro_expfam.deq.cuda.linear_algebra import solve_definite
from pyro_expfam.deq.cuda.softmax import padded_levels, with_padded_levels
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules


def solve_rows(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves all rows, from latents ``start`` ``(N, l)``, into ``out``."""
    table, constants = as_cuda_table(with_padded_levels(problem))
    self_concordance = problem.family.self_concordance
    assert self_concordance is not None
    blocks = row_blocks(constants)
    # Kept on the device, so that the host does not wait for the number.
    norm = problem.map.largest_norm()
    grid = (triton.cdiv(table.num_rows, blocks["ROWS"]),)
    with torch.cuda.device_of(start):
        scoring_kernel[grid](
            table,
            start.contiguous(),
            tuple(out[:4]),
            rules.for_variance(bounded=problem.family.bounded_variance),
            self_concordance,
            self_concordance * norm,
            LEVELS=padded_levels(problem),
            **constants,
            **blocks,
        )


@triton.jit
def scoring_kernel(
    table,
    start,
    out,
    rules,
    self_concordance,
    rate,
    ACTIVATION: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Fisher scoring of the rows of a block until the last of them is done."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    active = row < table.num_rows
    precision, rate = tl.load(table.precision), tl.load(rate)
    statistic = _statistic_loading(table, row, WIDTH, DOT, ROWS, FEATURES)
    z = read_rows(table, start, row, WIDTH)
    trial, direction = z, tl.zeros((ROWS, WIDTH), tl.float32)
    decrement, square = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    length = tl.full((ROWS,), 1.0, tl.float32)
    # After their start, which is taken without a test, rows take whole steps.
    reach = tl.full((ROWS,), float("inf"), tl.float32)
    num_iter = tl.zeros((ROWS,), tl.int32)
    last = tl.zeros((ROWS,), tl.int1)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        sums, diagonal, matrix = sums_and_information(
            table, row, trial, ACTIVATION, LEVELS, WIDTH, PACKED, DOT, ROWS, FEATURES
        )
        score = statistic - sums - precision * trial
        newest, resolved, _ = solve_definite(
            matrix, diagonal, score, rules.smallest_pivot, table.latent_dim, WIDTH
        )
        num_iter += active.to(tl.int32)
        agreement = tl.sum(score * direction, axis=1)
        taken = active & ((num_iter == 1) | descends(agreement))
        refused = active & (taken == 0)
        if tl.max(refused.to(tl.int32), axis=0) > 0:
            change = self_concordance * _largest(table, direction, WIDTH, DOT, ROWS, FEATURES)
            taken |= refused & is_accepted(agreement, length, change, decrement, rules)
            refused &= taken == 0
            reach = tl.where(refused, reach_after_failure(reach, length), reach)
            length = tl.where(refused, damped_length(change, reach), length)
        z = tl.where(taken[:, None], trial, z)
        direction = tl.where(taken[:, None], newest, direction)
        decrement = tl.where(taken, tl.sum(score * newest, axis=1), decrement)
        square = tl.where(taken, rate * rate * tl.sum(newest * newest, axis=1), square)
        reach = tl.where(taken, reach_after_step(reach, length), reach)
        length = tl.where(taken, 1.0, length)
        unknown = taken & needs_change(square, reach, rules)
        if tl.max(unknown.to(tl.int32), axis=0) > 0:
            change = self_concordance * _largest(table, direction, WIDTH, DOT, ROWS, FEATURES)
            length = tl.where(unknown, first_length(change, reach, rules), length)
        # Information beyond the digits of the format is left to float64.
        trusted = resolved | (taken == 0)
        last |= active & is_last(decrement, square, length, trusted, rules)
        active &= leaves(last, trusted, num_iter, rules) == 0
        trial = z + length[:, None] * direction
    _write(table, row, z, direction, decrement, square, num_iter, last, out, rules, WIDTH)


@triton.jit
def _write(
    table,
    row,
    z,
    direction,
    decrement,
    square,
    num_iter,
    last,
    out,
    rules,
    WIDTH: tl.constexpr,
):
    # A step that is not certain to be the last may be a bad one: stay before it.
    value = tl.where(last[:, None], z + direction, z)
    left = residual(decrement, square, last, rules)
    inside = row < table.num_rows
    write_rows(table, out[0], row, value, WIDTH)
    tl.store(out[1] + row, last, mask=inside)
    tl.store(out[2] + row, num_iter, mask=inside)
    tl.store(out[3] + row, left, mask=inside)


@triton.jit
def _statistic_loading(
    table,
    row,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """The products of weighted statistics and loadings."""
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        statistic = read(table.statistic, row, column, inside)
        if table.weights is not None:
            statistic *= read(table.weights, row, column, inside)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        sums = tl.dot(statistic, W, sums, input_precision=DOT)
    return sums


@triton.jit
def _largest(
    table,
    direction,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """The largest change of a natural parameter along a direction."""
    largest = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        change = tl.dot(direction, tl.trans(W), input_precision=DOT)
        largest = tl.maximum(largest, tl.max(tl.abs(change), axis=1))
    return largest
