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


class _Block(NamedTuple):
    """Memory for a block of rows; the last dimension runs over lanes.

    Attributes:
        row: the row that a lane holds.
        present: 1, or 0 for lanes beyond the last row.
        z: latents.
        y: their sufficient statistics.
        loaded: the rows whose statistics are there.
        residual: minus the weighted slopes of the losses of all features.
        curvature: their weighted second derivatives.
        third: their weighted third derivatives.
        fourth: the fourth, or no features if they are not wanted.
        fifth: the fifth, likewise.
        derivatives: losses of a feature and their derivatives.
        information: packed lower triangles.
        moments: packed inverses of the information, and packed products of ``(z, 1)``.
        vectors: vectors over the latents: ``(z, 1)``, what goes through the latents, and others.
        memory: memory of a group of features.
        panel: as :func:`~pyro_expfam.deq.cpu.evaluation.load_panel` fills it.
        factor: memory for factors of the information.
        ones: a one for every feature.
        loss: losses of the rows.
        log_det: log determinants of the information.
        resolved: whether it is positive definite to rounding.
    """

    row: Any
    present: Any
    z: Any
    y: Any
    loaded: Any
    residual: Any
    curvature: Any
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


@numba.njit(**OPTIONS)
def padded(number):
    """The next multiple of a tile's side."""
    return -(-number // SIDE) * SIDE


@numba.njit(**OPTIONS)
def empty_block(table, latent_dim, order):
    """Memory for a block of rows, and derivatives up to an order, 3 or 5."""
    num_features = len(table.design.rows)
    packed = latent_dim * (latent_dim + 1) // 2
    products = (latent_dim + 1) * (latent_dim + 2) // 2
    like = np.zeros(0)
    by_feature = np.zeros((3, padded(num_features), STRIDE))
    higher = np.zeros((2, num_features if order > 3 else 0, STRIDE))
    return _Block(
        np.zeros(LANES, np.int64),
        np.zeros(LANES),
        np.zeros((latent_dim + 1, LANES)),
        np.zeros((num_features, STRIDE)),
        np.full(LANES, -1),
        by_feature[0],
        by_feature[1],
        by_feature[2],
        higher[0],
        higher[1],
        np.zeros((6, LANES)),
        np.zeros((packed, STRIDE)),
        np.zeros((padded(packed + products), STRIDE)),
        np.zeros((4, padded(latent_dim + 1), STRIDE)),
        np.zeros((SHARED, LANES)),
        panel_memory(latent_dim, like),
        factor_memory(latent_dim, like),
        np.ones(num_features),
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES, np.bool_),
    )


@numba.njit(**OPTIONS)
def load_block(table, z, first, end, block):
    """Puts rows from ``first`` on into the lanes."""
    for r in range(LANES):
        block.row[r] = min(first + r, end - 1)
        block.present[r] = 1.0 if first + r < end else 0.0
        for k in range(z.shape[1]):
            block.z[k, r] = z[block.row[r], k]
    load_observed(table.observed, block.row, block.y, block.loaded)


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
