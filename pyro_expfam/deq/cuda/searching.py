"""Newton's method with a line search for blocks of rows, each in one program.

The kernel takes the steps of :mod:`~pyro_expfam.deq.line_search` where the loss is convex, and
computes in float64: in float32 the decrease of an objective would be lost to rounding far from the
root, and the score that is left would not be certain to be below the tolerance.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.cuda.block_rules import (
    ends_search,
    has_decreased,
    is_at_rest,
    is_stalled,
    left_of_score,
    next_length,
)
from pyro_expfam.deq.cuda.blocking import search_blocks
from pyro_expfam.deq.cuda.cuda_table import (
    as_cuda_table,
    is_inside,
    natural_params,
    read,
    read_features,
    read_rows,
    write_rows,
)
from pyro_expfam.deq.cuda.linear_algebra import solve_definite, unpack
from pyro_expfam.deq.cuda.outcomes import entry_losses
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules


def search_rows(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves all rows, from latents ``start`` ``(N, l)``, into ``out``."""
    of_prior = problem.prior.linear_part()
    linear = torch.zeros_like(start, memory_format=torch.contiguous_format)
    if of_prior is not None:
        linear += of_prior
    table, constants = as_cuda_table(in_double(problem))
    del constants["DOT"]
    blocks = search_blocks(constants)
    with torch.cuda.device_of(start):
        searching_kernel[(triton.cdiv(table.num_rows, blocks["ROWS"]),)](
            table,
            start.contiguous(),
            linear,
            tuple(out[:4]),
            SearchRules.of(rules.tolerance, rules.max_iter),
            **constants,
            **blocks,
        )


def in_double(problem: LatentProblem) -> LatentProblem:
    """The problem with all that its rows share in float64, and with its rows as they are."""
    return replace(
        problem,
        map=problem.map.double(),
        b=problem.b.double(),
        precision=problem.precision.double(),
        loc=None,
    )


@triton.jit
def searching_kernel(
    table,
    start,
    linear,
    out,
    rules,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Steps of the rows of a block until the last of them is done."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    active = row < table.num_rows
    precision = tl.load(table.precision)
    constant = read_rows(table, linear, row, WIDTH).to(tl.float64)
    z = read_rows(table, start, row, WIDTH).to(tl.float64)
    trial, direction = z, tl.zeros((ROWS, WIDTH), tl.float64)
    objective, decrement = tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    left, length = tl.zeros((ROWS,), tl.float64), tl.full((ROWS,), 1.0, tl.float64)
    num_iter = tl.zeros((ROWS,), tl.int32)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        there, sums, diagonal, packed = _evaluate_losses(
            table, row, trial, ACTIVATION, WIDTH, PACKED, ROWS, FEATURES
        )
        there += tl.sum(trial * (0.5 * precision * trial - constant), axis=1)
        score = constant - sums - precision * trial
        place = tl.arange(0, WIDTH)
        diagonal += tl.where((place < table.latent_dim)[None, :], precision, 1.0)
        matrix = unpack(diagonal, packed, table.latent_dim, WIDTH)
        newest, resolved, _ = solve_definite(matrix, diagonal, score, 0.0, table.latent_dim, WIDTH)
        num_iter += active.to(tl.int32)
        fresh = num_iter == 1
        agreement = tl.sum(score * direction, axis=1)
        good = has_decreased(objective, there, length, decrement, agreement, rules)
        taken = active & (fresh | good)
        # A row without a direction leaves.
        following = tl.where(resolved, tl.sum(score * newest, axis=1), float("nan"))
        stalled = is_stalled(objective, there, decrement, following, num_iter, rules)
        stalled &= taken & (fresh == 0)
        z = tl.where(taken[:, None], trial, z)
        direction = tl.where(taken[:, None], newest, direction)
        decrement = tl.where(taken, following, decrement)
        objective = tl.where(taken, there, objective)
        length = tl.where(active, next_length(taken, length), length)
        left = left_of_score(decrement)
        active &= (stalled | ends_search(left, length, num_iter, rules)) == 0
        trial = tl.where(active[:, None], z + length[:, None] * direction, z)
    inside = row < table.num_rows
    write_rows(table, out[0], row, z, WIDTH)
    tl.store(out[1] + row, is_at_rest(left, num_iter, rules), mask=inside)
    tl.store(out[2] + row, num_iter, mask=inside)
    tl.store(out[3] + row, left, mask=inside)


@triton.jit
def _evaluate_losses(
    table,
    row,
    z,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums over features: losses, slopes times loadings, curvatures times products of loadings."""
    objective = tl.zeros((ROWS,), tl.float64)
    sums = tl.zeros((ROWS, WIDTH), tl.float64)
    diagonal = tl.zeros((ROWS, WIDTH), tl.float64)
    packed = tl.zeros((ROWS, PACKED), tl.float64)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, z, W, "ieee")
        y = read(table.statistic, row, column, inside)
        total = read(table.size, row, column, inside)
        loss, slope, curvature = entry_losses(eta, y, total, ACTIVATION)
        if table.weights is not None:
            weights = read(table.weights, row, column, inside)
            loss, slope, curvature = weights * loss, weights * slope, weights * curvature
        objective += tl.sum(tl.where(inside, loss, 0.0), axis=1)
        products = read_features(table.products, column, table.num_features, PACKED)
        sums = _add_product(slope, W, sums)
        diagonal = _add_product(curvature, W * W, diagonal)
        packed = _add_product(curvature, products, packed)
    return objective, sums, diagonal, packed


@triton.jit
def _add_product(entries, factors, sums):
    return tl.dot(entries, factors, sums, input_precision="ieee", out_dtype=tl.float64)
