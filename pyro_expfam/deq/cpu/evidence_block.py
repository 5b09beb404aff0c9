"""Memory of the kernels of the evidence for a block of rows, whose lanes hold rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS
from pyro_expfam.deq.cpu.dots import SIDE
from pyro_expfam.deq.cpu.evaluation import LANES, SHARED, STRIDE, panel_memory
from pyro_expfam.deq.cpu.linear_algebra import factor_memory
from pyro_expfam.deq.cpu.observed import load_observed


class _Levels(NamedTuple):
    """Memory for the categories of a block of rows.

    Attributes:
        loading: transposed, ``(l, d)``, or nothing without categories.
        means: mean loadings of the columns, ``(columns * l, stride)``.
        through: vectors over the latents, ``(l, lanes)``.
        crossed: numbers of the levels of a column.
        numbers: numbers of a column.
    """

    loading: Any
    means: Any
    through: Any
    crossed: Any
    numbers: Any


class _Block(NamedTuple):
    """Memory for a block of rows; the last dimension runs over lanes.

    Attributes:
        row: the row that a lane holds.
        present: 1, or 0 for lanes beyond the last row.
        z: latents.
        y: their sufficient statistics.
        loaded: the rows whose statistics are there.
        known: what coefficients multiply: latents, 1 and covariates.
        number: how many these are.
        residual: minus the weighted slopes of the losses of all features.
        curvature: their weighted second derivatives; of levels, the weighted probabilities.
        variance: their weighted second derivatives, in the same memory where there are no levels.
        third: their weighted third derivatives, or memory for levels.
        fourth: the fourth, or no features if they are not wanted.
        fifth: the fifth, likewise.
        derivatives: losses of a feature and their derivatives.
        information: packed lower triangles.
        moments: packed inverses of the information, and packed products of what is known.
        vectors: vectors over the latents: memory, what goes through the latents, and others.
        memory: memory of a group of features.
        panel: as :func:`~pyro_expfam.deq.cpu.evaluation.load_panel` fills it.
        factor: memory for factors of the information.
        ones: a one for every feature.
        loss: losses of the rows.
        log_det: log determinants of the information.
        resolved: whether it is positive definite to rounding.
        levels: memory for categories.
    """

    row: Any
    present: Any
    z: Any
    y: Any
    loaded: Any
    known: Any
    number: Any
    residual: Any
    curvature: Any
    variance: Any
    third: Any
    fourth: Any
    fifth: Any
    derivatives: Any
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
    levels: _Levels


@numba.njit(**OPTIONS)
def padded(number):
    """The next multiple of a tile's side."""
    return -(-number // SIDE) * SIDE


@numba.njit(**OPTIONS)
def empty_block(table, latent_dim, order):
    """Memory for a block of rows, and derivatives up to an order, 3 or 5."""
    rows, columns = table.design.rows, table.design.columns
    num_features = len(rows)
    number = latent_dim + 1 + table.covariates.shape[1]
    packed, products = latent_dim * (latent_dim + 1) // 2, number * (number + 1) // 2
    like = np.zeros(0)
    by_feature = np.zeros((3, padded(num_features), STRIDE))
    higher = np.zeros((2, num_features if order > 3 else 0, STRIDE))
    most = 0
    for c in range(len(columns)):
        most = max(most, columns[c, 1])
    # Without categories there is one array of second derivatives.
    variance = np.zeros((padded(num_features), STRIDE)) if most > 0 else by_feature[1]
    levels = _Levels(
        rows[: num_features if most > 0 else 0].T.copy(),
        np.zeros((len(columns) * latent_dim, STRIDE)),
        np.zeros((latent_dim, LANES)),
        np.zeros((most, LANES)),
        np.zeros((4, LANES)),
    )
    return _Block(
        np.zeros(LANES, np.int64),
        np.zeros(LANES),
        np.zeros((latent_dim, LANES)),
        np.zeros((num_features, STRIDE)),
        np.full(LANES, -1),
        np.zeros((padded(number), STRIDE)),
        number,
        by_feature[0],
        by_feature[1],
        variance,
        by_feature[2],
        higher[0],
        higher[1],
        np.zeros((6, LANES)),
        np.zeros((packed, STRIDE)),
        np.zeros((padded(packed + products), STRIDE)),
        np.zeros((4, padded(latent_dim), STRIDE)),
        np.zeros((SHARED, LANES)),
        panel_memory(latent_dim, like),
        factor_memory(latent_dim, like),
        np.ones(num_features),
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES, np.bool_),
        levels,
    )


@numba.njit(**OPTIONS)
def load_block(table, z, first, end, block):
    """Puts rows from ``first`` on into the lanes."""
    latent_dim, covariates, known = z.shape[1], table.covariates, block.known
    for r in range(LANES):
        s = min(first + r, end - 1)
        block.row[r] = s
        block.present[r] = 1.0 if first + r < end else 0.0
        for k in range(latent_dim):
            block.z[k, r] = z[s, k]
            known[k, r] = z[s, k]
        known[latent_dim, r] = 1.0
        for k in range(covariates.shape[1]):
            known[latent_dim + 1 + k, r] = covariates[s, k]
    load_observed(table.observed, block.row, block.y, block.loaded)


@numba.njit(**OPTIONS)
def load_weights(weights, i, row, weight):
    """Puts the weights of a feature into the lanes; without weights they stay as they are."""
    if len(weights):
        column = min(i, weights.shape[1] - 1)
        by_row = 1 if len(weights) > 1 else 0
        for r in range(LANES):
            weight[r] = weights[by_row * row[r], column]


@numba.njit(**OPTIONS)
def load_gradients(of_likelihood, of_log_det, block, gradients):
    """Puts the gradients of rows into the lanes, zero in lanes without a row of their own."""
    for r in range(LANES):
        gradients[0, r] = of_likelihood[block.row[r]] * block.present[r]
        gradients[1, r] = of_log_det[block.row[r]] * block.present[r]


@numba.njit(**OPTIONS)
def keep_rows(first, end, block, traces, loss, log_det, resolved, trace, u):
    """Writes the parts of the rows that the lanes hold."""
    for r in range(min(LANES, end - first)):
        s = first + r
        loss[s], log_det[s], resolved[s] = block.loss[r], block.log_det[r], block.resolved[r]
        trace[s] = traces[r]
        for k in range(u.shape[1]):
            u[s, k] = block.vectors[1, k, r]


@numba.njit(**OPTIONS)
def keep_entries(first, end, entries, of_block):
    """Writes entries of the rows that the lanes hold, ``(N, d)``, if there is a place for them."""
    for r in range(min(LANES, end - first) if len(entries) else 0):
        for i in range(entries.shape[1]):
            entries[first + r, i] = of_block[i, r]
