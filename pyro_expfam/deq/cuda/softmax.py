"""Categories in the kernels: levels of a column side by side, padded to a power of two."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cuda.cuda_table import (
    is_inside,
    loading,
    moments,
    natural_params,
    read,
    read_features,
)
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem

IMPOSSIBLE = -1e30
"""The intercept of a padding level: its probability is 0 whatever the latents."""


def padded_levels(problem: LatentProblem) -> int:
    """The power of two that levels are padded to; 1 without levels."""
    activation = activation_of(problem.family)
    assert activation is not None
    return int(triton.next_power_of_2(activation.levels))


def with_padded_levels(problem: LatentProblem) -> LatentProblem:
    """The same problem with impossible levels, such that they are a power of two."""
    levels, padded = problem.family.predictors_per_column, padded_levels(problem)
    if levels == padded:
        return problem

    def pad(entries: Tensor | None, value: float = 0.0) -> Tensor | None:
        if entries is None or entries.shape[-1] == 1:
            return entries
        by_level = entries.unflatten(-1, (-1, levels))
        return torch.nn.functional.pad(by_level, (0, padded - levels), value=value).flatten(-2)

    y, b, W = pad(problem.y), pad(problem.b, IMPOSSIBLE), pad(loading(problem).mT)
    assert y is not None
    assert b is not None
    assert W is not None
    return replace(
        problem, y=y, b=b, map=Dense(W.mT), offset=pad(problem.offset), weights=pad(problem.weights)
    )


def without_padding(by_predictor: Tensor, problem: LatentProblem) -> Tensor:
    """Rows ``(d, ...)`` of the levels of a problem, out of rows of padded levels."""
    levels = problem.family.predictors_per_column
    return by_predictor.unflatten(0, (-1, padded_levels(problem)))[:, :levels].flatten(0, 1)


@triton.jit
def probabilities(eta, ROWS: tl.constexpr, FEATURES: tl.constexpr, LEVELS: tl.constexpr):
    """The probabilities of a tile, by column and level."""
    by_column = tl.reshape(eta, (ROWS, FEATURES // LEVELS, LEVELS))
    power = tl.exp(by_column - tl.max(by_column, axis=2)[:, :, None])
    return power / tl.sum(power, axis=2)[:, :, None]


@triton.jit
def evaluate_levels(
    table,
    row,
    z,
    WIDTH: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Sums over levels: probabilities times loadings, and the information without the prior.

    The information of a column is the covariance of the rows of its loading.
    """
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    matrix = tl.zeros((ROWS, WIDTH, WIDTH), tl.float32)
    for begin in range(0, table.num_features, FEATURES):
        column = begin + tl.arange(0, FEATURES)
        inside = is_inside(table, row, column)
        W = read_features(table.loading, column, table.num_features, WIDTH)
        eta = natural_params(table, row, column, inside, z, W, DOT)
        by_column = probabilities(eta, ROWS, FEATURES, LEVELS)
        p = tl.reshape(by_column, (ROWS, FEATURES))
        loadings = tl.broadcast_to(W[None, :, :], (ROWS, FEATURES, WIDTH))
        split = tl.reshape(loadings, (ROWS, FEATURES // LEVELS, LEVELS, WIDTH))
        mean = tl.sum(by_column[:, :, :, None] * split, axis=2)
        # A difference of two sums would lose its digits where a probability is close to 1.
        deviation = tl.reshape(split - mean[:, :, None, :], (ROWS, FEATURES, WIDTH))
        if table.weights is not None:
            p *= read(table.weights, row, column, inside)
        sums = tl.dot(p, W, sums, input_precision=DOT)
        weighted = tl.permute(p[:, :, None] * deviation, (0, 2, 1))
        matrix = tl.dot(weighted, deviation, matrix, input_precision="ieee")
    return sums, matrix


@triton.jit
def mean_and_change(
    table,
    row,
    column,
    inside,
    eta,
    along,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Means of a tile, and their change where linear predictors change by ``along``."""
    if ACTIVATION == "softmax":
        p = probabilities(eta, ROWS, FEATURES, LEVELS)
        by_column = tl.reshape(along, (ROWS, FEATURES // LEVELS, LEVELS))
        mean = tl.sum(p * by_column, axis=2)
        change = p * (by_column - mean[:, :, None])
        return tl.reshape(p, (ROWS, FEATURES)), tl.reshape(change, (ROWS, FEATURES))
    else:
        mean, variance = moments(table, row, column, inside, eta, ACTIVATION)
        return mean, variance * along
