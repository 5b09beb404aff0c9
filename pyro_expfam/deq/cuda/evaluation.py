"""Sums over the features of a block of rows."""

import triton
import triton.language as tl

from pyro_expfam.deq.cuda.cuda_table import is_inside, moments, natural_params, read, read_features


@triton.jit
def evaluate(
    table,
    row,
    z,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sums over features: means times loadings, variances times products of loadings."""
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    diagonal = tl.zeros((ROWS, WIDTH), tl.float32)
    packed = tl.zeros((ROWS, PACKED), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, z, W, DOT)
        mean, variance = moments(table, row, column, inside, eta, ACTIVATION)
        if table.weights is not None:
            weights = read(table.weights, row, column, inside)
            mean, variance = weights * mean, weights * variance
        products = read_features(table.products, column, table.num_features, PACKED)
        sums = tl.dot(mean, W, sums, input_precision=DOT)
        diagonal = tl.dot(variance, W * W, diagonal, input_precision=DOT)
        packed = tl.dot(variance, products, packed, input_precision=DOT)
    return sums, diagonal, packed
