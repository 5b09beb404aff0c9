"""The arrays of a problem in the layout of the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cuda.activations import mean_and_variance
from pyro_expfam.deq.cuda.outcomes import entry_losses
from pyro_expfam.deq.problem import LatentProblem


class CudaMatrix(NamedTuple):
    """A matrix of rows x features; a stride is 0 where it broadcasts."""

    pointer: Any
    row_stride: Any
    column_stride: Any


class CudaTable(NamedTuple):
    """A problem in the layout of the kernels.

    Attributes:
        statistic: sufficient statistics, or the observations of a family without them.
        offset: known part of the natural parameters, or None.
        weights: entry weights, or None.
        size: the factor of a logistic activation.
        loading: padded with zeros to ``(d, width)``.
        products: products of pairs of different columns, padded with zeros to ``(d, packed)``.
        intercept: ``(d,)``.
        precision: of the latents, ``()``.
        slope: the factor of the natural parameter inside a logistic activation.
        shift: the number that is subtracted from a logistic activation.
        constant: the number that is added to its log-partition.
        num_rows: ``N``.
        num_features: ``d``.
        latent_dim: ``l``.
    """

    statistic: Any
    offset: Any
    weights: Any
    size: Any
    loading: Any
    products: Any
    intercept: Any
    precision: Any
    slope: float
    shift: float
    constant: float
    num_rows: int
    num_features: int
    latent_dim: int


def as_cuda_table(problem: LatentProblem) -> tuple[CudaTable, dict[str, Any]]:
    """The table of a problem without batch dimensions, and constants of its kernels."""
    activation = activation_of(problem.family)
    assert activation is not None
    latent_dim = problem.latent_dim
    width = max(16, triton.next_power_of_2(latent_dim))
    # The kernels form the squares themselves: a power of two of latents then needs half the
    # padding.
    num_products = latent_dim * (latent_dim - 1) // 2
    packed = max(16, triton.next_power_of_2(num_products))
    row, column = torch.tril_indices(latent_dim, latent_dim, -1, device=problem.map.loading.device)
    products = problem.map.loading[:, row] * problem.map.loading[:, column]
    pad = torch.nn.functional.pad
    shape = problem.y.shape
    table = CudaTable(
        entries(observed(problem), shape),
        entries(problem.offset, shape),
        entries(problem.weights, shape),
        entries(torch.as_tensor(activation.size).to(problem.b), shape),
        pad(problem.map.loading, (0, width - latent_dim)).contiguous(),
        pad(products, (0, packed - num_products)).contiguous(),
        problem.b.contiguous(),
        problem.precision,
        activation.slope,
        activation.shift,
        activation.constant,
        problem.num_rows,
        problem.map.loading.shape[0],
        latent_dim,
    )
    constants = {
        "ACTIVATION": activation.name,
        "WIDTH": width,
        "PACKED": packed,
        "DOT": DOT_PRECISION[torch.get_float32_matmul_precision()],
    }
    return table, constants


def observed(problem: LatentProblem) -> Tensor:
    """The sufficient statistics of a problem, or the observations of a family without them."""
    statistic = problem.entries.statistic
    return problem.y if statistic is None else statistic


def loading(problem: LatentProblem) -> Tensor:
    """The loading ``(d, l)`` of a problem."""
    return problem.map.loading


DOT_PRECISION = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}
"""How products are computed, by the setting of ``torch.set_float32_matmul_precision``."""


def entries(x: Tensor | None, shape: torch.Size) -> CudaMatrix | None:
    """A matrix that broadcasts to a shape."""
    if x is None:
        return None
    x = x.expand(shape)
    return CudaMatrix(x, *x.stride())


@triton.jit
def read(matrix, row, column, inside):
    """A tile of entries, zero outside of the matrix."""
    place = row[:, None].to(tl.int64) * matrix.row_stride + column[None, :] * matrix.column_stride
    return tl.load(matrix.pointer + place, mask=inside, other=0.0)


@triton.jit
def read_rows(table, pointer, row, WIDTH: tl.constexpr):
    """Latents of some rows, padded with zeros to the width."""
    place = tl.arange(0, WIDTH)
    inside = (row < table.num_rows)[:, None] & (place < table.latent_dim)[None, :]
    where = row[:, None].to(tl.int64) * table.latent_dim + place[None, :]
    return tl.load(pointer + where, mask=inside, other=0.0)


@triton.jit
def write_rows(table, pointer, row, value, WIDTH: tl.constexpr):
    """Writes latents of some rows."""
    place = tl.arange(0, WIDTH)
    inside = (row < table.num_rows)[:, None] & (place < table.latent_dim)[None, :]
    where = row[:, None].to(tl.int64) * table.latent_dim + place[None, :]
    tl.store(pointer + where, value, mask=inside)


@triton.jit
def read_features(pointer, column, num_features, COLUMNS: tl.constexpr):
    """Loadings of some features, or products of them, zero beyond the last feature."""
    place = column[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.load(pointer + place, mask=(column < num_features)[:, None], other=0.0)


@triton.jit
def natural_params(table, row, column, inside, z, W, DOT: tl.constexpr):
    """Natural parameters of a tile, of latents and loadings padded to the width."""
    eta = tl.dot(z, tl.trans(W), input_precision=DOT)
    intercept = tl.load(table.intercept + column, mask=column < table.num_features, other=0.0)
    eta += intercept[None, :]
    if table.offset is not None:
        eta += read(table.offset, row, column, inside)
    return eta


@triton.jit
def moments(table, row, column, inside, eta, ACTIVATION: tl.constexpr):
    """Means and variances of a tile, before entry weights.

    Under a link they are the observations plus the slopes of their losses, and the curvatures.
    """
    size = read(table.size, row, column, inside)
    if ACTIVATION == "probit" or ACTIVATION == "complementary_log_log":
        y = read(table.statistic, row, column, inside)
        _, slope, curvature = entry_losses(eta, y, size, ACTIVATION)
        return y + slope, curvature
    else:
        return mean_and_variance(eta, size, table.slope, table.shift, ACTIVATION)


@triton.jit
def is_inside(table, row, column):
    """Which entries of a tile are in the table."""
    return (row < table.num_rows)[:, None] & (column < table.num_features)[None, :]


@triton.jit
def write_feature_sums(
    table, gradient_W, gradient_b, chunk, column, sum_W, sum_b, WIDTH: tl.constexpr
):
    """Writes gradients of the loading and the intercept of some features, of a chunk of rows."""
    place = tl.arange(0, WIDTH)
    feature = chunk * table.num_features + column
    inside = column < table.num_features
    tl.store(
        gradient_W + feature[:, None] * table.latent_dim + place[None, :],
        sum_W,
        mask=inside[:, None] & (place < table.latent_dim)[None, :],
    )
    tl.store(gradient_b + feature, sum_b, mask=inside)


@triton.jit
def write_entries(matrix, row, column, inside, value):
    """Writes a tile of entries."""
    place = row[:, None].to(tl.int64) * matrix.row_stride + column[None, :] * matrix.column_stride
    tl.store(matrix.pointer + place, value, mask=inside)
