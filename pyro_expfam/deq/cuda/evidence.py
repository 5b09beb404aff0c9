"""Log likelihoods and log determinants of rows, and the gradient of functions of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.cuda.activations import log_partition, third_cumulant
from pyro_expfam.deq.cuda.blocking import CHUNK_ROWS, COLUMNS, light_blocks, row_blocks, sum_blocks
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
from pyro_expfam.deq.cuda.evaluation import evaluate
from pyro_expfam.deq.cuda.linear_algebra import solve_definite, unpack
from pyro_expfam.deq.problem import LatentProblem


class RowEvidence(NamedTuple):
    r"""The terms of the evidence of rows.

    Attributes:
        loss: :math:`\sum_i \omega_i \ell(\eta_i; y_i)`, ``(N,)``.
        log_det: the log determinant of the information, ``(N,)``.
        resolved: whether single precision has enough digits for the determinant, ``(N,)``.
    """

    loss: Tensor
    log_det: Tensor
    resolved: Tensor


class EvidenceGradients(NamedTuple):
    """Gradients of W ``(d, l)``, b ``(d,)`` and, if wanted, the offset ``(N, d)``."""

    W: Tensor
    b: Tensor
    offset: Tensor | None


def row_evidence(problem: LatentProblem, z: Tensor, smallest_pivot: float) -> RowEvidence:
    """The parts of the evidence of every row at latents ``z`` ``(N, l)``."""
    table, constants = as_cuda_table(problem)
    blocks = row_blocks(constants)
    loss, log_det = z.new_empty(2, len(z))
    resolved = torch.empty(len(z), dtype=torch.bool, device=z.device)
    with torch.cuda.device_of(z):
        evidence_kernel[(triton.cdiv(len(z), blocks["ROWS"]),)](
            table,
            z.contiguous(),
            loss,
            log_det,
            resolved,
            smallest_pivot,
            **constants,
            **blocks,
        )
    return RowEvidence(loss, log_det, resolved)


def information_matrices(problem: LatentProblem, z: Tensor) -> Tensor:
    """The information of every row at latents ``z`` ``(N, l)``, as ``(N, l, l)``."""
    table, constants = as_cuda_table(problem)
    blocks = light_blocks(constants)
    latent_dim = z.shape[1]
    information = z.new_empty(len(z), latent_dim, latent_dim)
    with torch.cuda.device_of(z):
        matrix_kernel[(triton.cdiv(len(z), blocks["ROWS"]),)](
            table, z.contiguous(), information, **constants, **blocks
        )
    return information


def third_moment(problem: LatentProblem, z: Tensor, covariance: Tensor) -> Tensor:
    r""":math:`t_s = \sum_i A'''_i (w_i^\top C_s w_i) w_i`, ``(N, l)``.

    It is the gradient of the log determinant of the information with respect to the latents, given
    the inverses ``C`` ``(N, l, l)`` of the information.
    """
    table, constants = as_cuda_table(problem)
    blocks = light_blocks(constants)
    moment = torch.empty_like(z, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(z):
        moment_kernel[(triton.cdiv(len(z), blocks["ROWS"]),)](
            table,
            z.contiguous(),
            *_packed(covariance, constants),
            moment,
            **constants,
            **blocks,
        )
    return moment


def evidence_gradients(
    problem: LatentProblem,
    z: Tensor,
    covariance: Tensor,
    of_likelihood: Tensor,
    of_log_det: Tensor,
    u: Tensor,
    wants_offset: bool,
) -> EvidenceGradients:
    """Gradients of a function of the log likelihoods and half log determinants of rows.

    The latents follow: ``u`` ``(N, l)`` is ``C`` times the gradient that reaches them, as in
    :func:`~pyro_expfam.deq.implicit.solve`.

    Args:
        problem: the problem of the latents.
        z: its root, ``(N, l)``.
        covariance: inverses of the information, ``(N, l, l)``.
        of_likelihood: incoming gradients of minus the losses, ``(N,)``.
        of_log_det: incoming gradients of half the log determinants, ``(N,)``.
        u: the part that goes through the latents, ``(N, l)``.
        wants_offset: whether the gradient of the offset is wanted.
    """
    table, constants = as_cuda_table(problem)
    blocks = sum_blocks()
    num_chunks = triton.cdiv(table.num_rows, CHUNK_ROWS)
    num_features, latent_dim = problem.num_features, problem.latent_dim
    of_W = z.new_empty(num_chunks, num_features, latent_dim)
    of_b = z.new_empty(num_chunks, num_features)
    diagonal = z.new_empty(num_chunks, num_features, constants["WIDTH"])
    packed = z.new_empty(num_chunks, num_features, constants["PACKED"])
    of_offset = torch.empty_like(problem.y) if wants_offset else None
    grid = (triton.cdiv(num_features, blocks["FEATURES"]), num_chunks)
    columns = min(COLUMNS, constants["PACKED"])
    z, of_log_det = z.contiguous(), of_log_det.contiguous()
    variances, covariances = _packed(covariance, constants)
    with torch.cuda.device_of(z):
        evidence_gradient_kernel[grid](
            table,
            z,
            variances,
            covariances,
            of_likelihood.contiguous(),
            of_log_det,
            u.contiguous(),
            of_W,
            of_b,
            diagonal,
            entries(of_offset, problem.y.shape),
            CHUNK=CHUNK_ROWS,
            **constants,
            **blocks,
        )
        covariance_kernel[(*grid, constants["PACKED"] // columns)](
            table,
            z,
            covariances,
            of_log_det,
            packed,
            CHUNK=CHUNK_ROWS,
            COLUMNS=columns,
            **constants,
            **blocks,
        )
    by_information = _times_loading(problem.map.loading, diagonal.sum(0), packed.sum(0))
    return EvidenceGradients(of_W.sum(0) + by_information, of_b.sum(0), of_offset)


def _packed(covariance: Tensor, constants: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Diagonals, and twice the entries below them, in the layout of the kernels."""
    latent_dim = covariance.shape[-1]
    row, column = torch.tril_indices(latent_dim, latent_dim, -1, device=covariance.device)
    pad = torch.nn.functional.pad
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    below = 2 * covariance[:, row, column]
    return (
        pad(diagonal, (0, constants["WIDTH"] - latent_dim)).contiguous(),
        pad(below, (0, constants["PACKED"] - len(row))).contiguous(),
    )


def _times_loading(W: Tensor, diagonal: Tensor, packed: Tensor) -> Tensor:
    """Symmetric matrices per feature (diagonals, twice the entries below) times loadings."""
    latent_dim = W.shape[1]
    row, column = torch.tril_indices(latent_dim, latent_dim, -1, device=W.device)
    matrix = torch.diag_embed(diagonal[:, :latent_dim])
    below = 0.5 * packed[:, : len(row)]
    matrix[:, row, column] = below
    matrix[:, column, row] = below
    return (matrix @ W.unsqueeze(-1)).squeeze(-1)


@triton.jit
def evidence_kernel(
    table,
    z,
    loss,
    log_det,
    resolved,
    smallest_pivot,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Losses and log determinants of the rows of a block."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latents = read_rows(table, z, row, WIDTH)
    inside = row < table.num_rows
    total = _loss(table, row, latents, ACTIVATION, WIDTH, DOT, ROWS, FEATURES)
    tl.store(loss + row, total, mask=inside)
    _, diagonal, packed = evaluate(
        table, row, latents, ACTIVATION, WIDTH, PACKED, DOT, ROWS, FEATURES
    )
    is_latent = tl.arange(0, WIDTH) < table.latent_dim
    diagonal += tl.where(is_latent[None, :], tl.load(table.precision), 1.0)
    matrix = unpack(diagonal, packed, table.latent_dim, WIDTH)
    _, good, log_determinant = solve_definite(
        matrix, diagonal, latents, smallest_pivot, table.latent_dim, WIDTH
    )
    tl.store(log_det + row, log_determinant, mask=inside)
    tl.store(resolved + row, good, mask=inside)


@triton.jit
def matrix_kernel(
    table,
    z,
    information,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Writes the information of the rows of a block."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latents = read_rows(table, z, row, WIDTH)
    _, diagonal, packed = evaluate(
        table, row, latents, ACTIVATION, WIDTH, PACKED, DOT, ROWS, FEATURES
    )
    diagonal += tl.load(table.precision)
    matrix = unpack(diagonal, packed, table.latent_dim, WIDTH)
    place = tl.arange(0, WIDTH)
    entry = place[:, None] * table.latent_dim + place[None, :]
    inside = (place < table.latent_dim)[:, None] & (place < table.latent_dim)[None, :]
    size = table.latent_dim * table.latent_dim
    tl.store(
        information + row[:, None, None].to(tl.int64) * size + entry[None, :, :],
        matrix,
        mask=(row < table.num_rows)[:, None, None] & inside[None, :, :],
    )


@triton.jit
def _loss(
    table,
    row,
    z,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Minus the log densities of the rows without their base measure."""
    total = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, z, W, DOT)
        size = read(table.size, row, column, inside)
        value = log_partition(eta, size, table.slope, table.shift, table.constant, ACTIVATION)
        value -= read(table.statistic, row, column, inside) * eta
        if table.weights is not None:
            value *= read(table.weights, row, column, inside)
        total += tl.sum(tl.where(inside, value, 0.0), axis=1)
    return total


@triton.jit
def _quadratic_forms(
    table,
    row,
    column,
    W,
    diagonal,
    packed,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
):
    """Variances of the natural parameters of a tile."""
    variances = _read_columns(diagonal, row, table.num_rows, 0, WIDTH, WIDTH)
    forms = tl.dot(variances, tl.trans(W * W), input_precision=DOT)
    # A few products at a time, since a thread keeps all factors of a matrix product.
    for begin in range(0, PACKED, 16):
        covariances = _read_columns(packed, row, table.num_rows, begin, PACKED, 16)
        products = _read_columns(table.products, column, table.num_features, begin, PACKED, 16)
        forms = tl.dot(covariances, tl.trans(products), forms, input_precision=DOT)
    return forms


@triton.jit
def _skewness(table, row, column, inside, eta, ACTIVATION: tl.constexpr):
    """Weighted third cumulants of a tile."""
    size = read(table.size, row, column, inside)
    third = third_cumulant(eta, size, table.slope, table.shift, ACTIVATION)
    if table.weights is not None:
        third *= read(table.weights, row, column, inside)
    return tl.where(inside, third, 0.0)


@triton.jit
def _read_columns(pointer, row, num_rows, begin, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Some columns of rows, zero beyond the last row."""
    place = row[:, None].to(tl.int64) * STRIDE + begin + tl.arange(0, COLUMNS)[None, :]
    return tl.load(pointer + place, mask=(row < num_rows)[:, None], other=0.0)


@triton.jit
def moment_kernel(
    table,
    z,
    diagonal,
    packed,
    moment,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums over the features of third cumulants, covariances and loadings."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latents = read_rows(table, z, row, WIDTH)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, latents, W, DOT)
        forms = _quadratic_forms(table, row, column, W, diagonal, packed, WIDTH, PACKED, DOT)
        third = _skewness(table, row, column, inside, eta, ACTIVATION)
        total = tl.dot(third * forms, W, total, input_precision=DOT)
    write_rows(table, moment, row, total, WIDTH)


@triton.jit
def evidence_gradient_kernel(
    table,
    z,
    diagonal,
    packed,
    of_likelihood,
    of_log_det,
    u,
    of_W,
    of_b,
    sum_diagonal,
    of_offset,
    CHUNK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums the gradients of some features over a chunk of the rows."""
    column = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    chunk = tl.program_id(1)
    W = read_features(table.loading, column, table.num_features, WIDTH)
    sum_W = tl.zeros((FEATURES, WIDTH), tl.float32)
    sum_b = tl.zeros((FEATURES,), tl.float32)
    on_diagonal = tl.zeros((FEATURES, WIDTH), tl.float32)
    for begin in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, table.num_rows), ROWS):
        row = begin + tl.arange(0, ROWS)
        inside = is_inside(table, row, column)
        latents = read_rows(table, z, row, WIDTH)
        reached = read_rows(table, u, row, WIDTH)
        is_row = row < table.num_rows
        likelihood = tl.load(of_likelihood + row, mask=is_row, other=0.0)[:, None]
        log_det = tl.load(of_log_det + row, mask=is_row, other=0.0)[:, None]
        eta = natural_params(table, row, column, inside, latents, W, DOT)
        mean, variance = moments(table, row, column, inside, eta, ACTIVATION)
        residual = read(table.statistic, row, column, inside) - mean
        if table.weights is not None:
            weights = read(table.weights, row, column, inside)
            residual, variance = weights * residual, weights * variance
        residual = tl.where(inside, residual, 0.0)
        variance = tl.where(inside, variance, 0.0)
        forms = _quadratic_forms(table, row, column, W, diagonal, packed, WIDTH, PACKED, DOT)
        third = _skewness(table, row, column, inside, eta, ACTIVATION)
        along = tl.dot(reached, tl.trans(W), input_precision=DOT)
        to_eta = likelihood * residual + 0.5 * log_det * third * forms - variance * along
        if of_offset is not None:
            write_entries(of_offset, row, column, inside, to_eta)
        sum_W = tl.dot(tl.trans(to_eta), latents, sum_W, input_precision=DOT)
        sum_W = tl.dot(tl.trans(residual), reached, sum_W, input_precision=DOT)
        sum_b += tl.sum(to_eta, axis=0)
        weight = tl.trans(log_det * variance)
        variances = _read_columns(diagonal, row, table.num_rows, 0, WIDTH, WIDTH)
        on_diagonal = tl.dot(weight, variances, on_diagonal, input_precision=DOT)
    write_feature_sums(table, of_W, of_b, chunk, column, sum_W, sum_b, WIDTH)
    feature = (chunk * table.num_features + column)[:, None]
    is_feature = (column < table.num_features)[:, None]
    place = tl.arange(0, WIDTH)[None, :]
    tl.store(sum_diagonal + feature * WIDTH + place, on_diagonal, mask=is_feature)


@triton.jit
def covariance_kernel(
    table,
    z,
    packed,
    of_log_det,
    sum_packed,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums the covariances of a chunk of the rows, by the variances of some features."""
    column = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    chunk, first = tl.program_id(1), tl.program_id(2) * COLUMNS
    W = read_features(table.loading, column, table.num_features, WIDTH)
    total = tl.zeros((FEATURES, COLUMNS), tl.float32)
    for begin in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, table.num_rows), ROWS):
        row = begin + tl.arange(0, ROWS)
        inside = is_inside(table, row, column)
        latents = read_rows(table, z, row, WIDTH)
        eta = natural_params(table, row, column, inside, latents, W, DOT)
        _, variance = moments(table, row, column, inside, eta, ACTIVATION)
        if table.weights is not None:
            variance *= read(table.weights, row, column, inside)
        by_row = tl.load(of_log_det + row, mask=row < table.num_rows, other=0.0)[:, None]
        weight = tl.trans(tl.where(inside, by_row * variance, 0.0))
        covariances = _read_columns(packed, row, table.num_rows, first, PACKED, COLUMNS)
        total = tl.dot(weight, covariances, total, input_precision=DOT)
    place = (chunk * table.num_features + column)[:, None] * PACKED
    place += first + tl.arange(0, COLUMNS)[None, :]
    tl.store(sum_packed + place, total, mask=(column < table.num_features)[:, None])
