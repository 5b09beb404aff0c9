"""The implicit gradient of the root: one pass by rows, one by features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.cuda.blocking import CHUNK_ROWS, light_blocks, row_blocks, sum_blocks
from pyro_expfam.deq.cuda.cuda_table import (
    as_cuda_table,
    entries,
    is_inside,
    moments,
    natural_params,
    read,
    read_features,
    read_rows,
    write_entries,
    write_feature_sums,
    write_rows,
)
from pyro_expfam.deq.cuda.information import sums_and_information
from pyro_expfam.deq.cuda.linear_algebra import solve_definite
from pyro_expfam.deq.cuda.softmax import (
    mean_and_change,
    padded_levels,
    with_padded_levels,
    without_padding,
)
from pyro_expfam.deq.problem import LatentProblem


class EntryGradients(NamedTuple):
    """Memory for gradients per entry, ``(N, d)`` each, or None where one is not wanted."""

    statistic: Any
    offset: Any
    weights: Any


def solve_information(
    problem: LatentProblem, z: Tensor, right: Tensor, smallest_pivot: float
) -> tuple[Tensor, Tensor]:
    """Solutions ``u`` of ``H u = right`` at latents ``z``, and which rows are resolved."""
    table, constants = as_cuda_table(with_padded_levels(problem))
    blocks = row_blocks(constants)
    u = torch.empty_like(right, memory_format=torch.contiguous_format)
    resolved = torch.empty(len(z), dtype=torch.bool, device=z.device)
    with torch.cuda.device_of(z):
        information_kernel[(triton.cdiv(len(z), blocks["ROWS"]),)](
            table,
            z.contiguous(),
            right.contiguous(),
            u,
            resolved,
            smallest_pivot,
            LEVELS=padded_levels(problem),
            **constants,
            **blocks,
        )
    return u, resolved


def sum_over_rows(
    problem: LatentProblem, z: Tensor, u: Tensor, wanted: EntryGradients
) -> tuple[Tensor, Tensor]:
    """Gradients of W and b, given ``u``; wanted gradients per entry are written to their memory."""
    padded = with_padded_levels(problem)
    table, constants = as_cuda_table(padded)
    blocks = sum_blocks()
    del constants["PACKED"]
    num_chunks = triton.cdiv(table.num_rows, CHUNK_ROWS)
    # Chunks are summed in a fixed order: the same input gives the same gradient.
    gradient_W = z.new_empty(num_chunks, table.num_features, problem.latent_dim)
    gradient_b = z.new_empty(num_chunks, table.num_features)
    with torch.cuda.device_of(z):
        gradient_kernel[(triton.cdiv(table.num_features, blocks["FEATURES"]), num_chunks)](
            table,
            z.contiguous(),
            u.contiguous(),
            gradient_W,
            gradient_b,
            EntryGradients(*(entries(x, problem.y.shape) for x in wanted)),
            CHUNK=CHUNK_ROWS,
            LEVELS=padded_levels(problem),
            **constants,
            **blocks,
        )
    of_W, of_b = gradient_W.sum(0), gradient_b.sum(0)
    if padded is problem:
        return of_W, of_b
    return without_padding(of_W, problem), without_padding(of_b, problem)


def sum_over_features(problem: LatentProblem, z: Tensor, u: Tensor) -> Tensor:
    """The gradient of an offset that is the same for all features, ``(N, 1)``, given ``u``."""
    table, constants = as_cuda_table(problem)
    blocks = light_blocks(constants)
    del constants["PACKED"]
    sums = z.new_empty(len(z), 1)
    with torch.cuda.device_of(z):
        row_kernel[(triton.cdiv(len(z), blocks["ROWS"]),)](
            table, z.contiguous(), u.contiguous(), sums, **constants, **blocks
        )
    return sums


@triton.jit
def information_kernel(
    table,
    z,
    right,
    u,
    resolved,
    smallest_pivot,
    ACTIVATION: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Solves with the information of every row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latents = read_rows(table, z, row, WIDTH)
    _, diagonal, matrix = sums_and_information(
        table, row, latents, ACTIVATION, LEVELS, WIDTH, PACKED, DOT, ROWS, FEATURES
    )
    solution, good, _ = solve_definite(
        matrix,
        diagonal,
        read_rows(table, right, row, WIDTH),
        smallest_pivot,
        table.latent_dim,
        WIDTH,
    )
    write_rows(table, u, row, solution, WIDTH)
    tl.store(resolved + row, good, mask=row < table.num_rows)


@triton.jit
def gradient_kernel(
    table,
    z,
    u,
    gradient_W,
    gradient_b,
    wanted,
    CHUNK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums the gradients of some features over a chunk of the rows."""
    column = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    W = read_features(table.loading, column, table.num_features, WIDTH)
    sum_W = tl.zeros((FEATURES, WIDTH), tl.float32)
    sum_b = tl.zeros((FEATURES,), tl.float32)
    chunk = tl.program_id(1)
    for begin in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, table.num_rows), ROWS):
        row = begin + tl.arange(0, ROWS)
        inside = is_inside(table, row, column)
        latents = read_rows(table, z, row, WIDTH)
        solution = read_rows(table, u, row, WIDTH)
        eta = natural_params(table, row, column, inside, latents, W, DOT)
        along = tl.dot(solution, tl.trans(W), input_precision=DOT)
        mean, change = mean_and_change(
            table, row, column, inside, eta, along, ACTIVATION, ROWS, FEATURES, LEVELS
        )
        residual = read(table.statistic, row, column, inside) - mean
        if wanted.weights is not None:
            write_entries(wanted.weights, row, column, inside, residual * along)
        weighted = along
        if table.weights is not None:
            weights = read(table.weights, row, column, inside)
            residual, weighted, change = weights * residual, weights * along, weights * change
        if wanted.statistic is not None:
            write_entries(wanted.statistic, row, column, inside, weighted)
        # Beyond the last row the latents are zero but the residual is not.
        residual = tl.where(inside, residual, 0.0)
        curvature = tl.where(inside, change, 0.0)
        if wanted.offset is not None:
            write_entries(wanted.offset, row, column, inside, -curvature)
        sum_W = tl.dot(tl.trans(residual), solution, sum_W, input_precision=DOT)
        sum_W -= tl.dot(tl.trans(curvature), latents, input_precision=DOT)
        sum_b -= tl.sum(curvature, axis=0)
    write_feature_sums(table, gradient_W, gradient_b, chunk, column, sum_W, sum_b, WIDTH)


@triton.jit
def row_kernel(
    table,
    z,
    u,
    sums,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums the gradient of the natural parameters over the features."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latents = read_rows(table, z, row, WIDTH)
    solution = read_rows(table, u, row, WIDTH)
    total = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, latents, W, DOT)
        _, variance = moments(table, row, column, inside, eta, ACTIVATION)
        if table.weights is not None:
            variance *= read(table.weights, row, column, inside)
        along = tl.dot(solution, tl.trans(W), input_precision=DOT)
        total -= tl.sum(tl.where(inside, variance * along, 0.0), axis=1)
    tl.store(sums + row, total, mask=row < table.num_rows)
