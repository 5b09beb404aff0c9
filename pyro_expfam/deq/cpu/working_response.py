r"""Where to start rows of overdispersed counts and of durations, compiled by Numba.

The logs of the observations are about linear in the latents. One regression on them, with the
weights that the entries have at the latents zero, costs less than an evaluation of the score, and
leaves one to three evaluations fewer to the root.

With the mean :math:`m = e^b` of a feature and its size :math:`r`, the logs of counts are
:math:`\log(y + 1) \approx \log(m + 1) + \tfrac{m}{m + 1} w^\top z`, and the information of an entry
is :math:`r m / (r + m)`. For a gamma of shape :math:`k` it is :math:`k`, and
:math:`\log y \approx b + w^\top z + \psi(k) - \log k`.
"""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy as np
import torch

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, compiled_once
from pyro_expfam.deq.cpu.cpu_table import CpuTable, dot, dots
from pyro_expfam.deq.cpu.fast_exponential import rough_log
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_READ, in_threads, spans

MEAN_OF_LOG = math.log(1e30)
"""The most that an intercept counts, so that means do not overflow."""


def start_by_regression(table: CpuTable, latent_dim: int) -> np.ndarray:
    """Latents ``(N, l)`` by a regression on the logs of the observations."""
    design = table.design
    num_rows, num_features = table.observed.shape
    W = design.loading[:latent_dim, :num_features].astype(np.float64)
    size = design.size[:num_features].astype(np.float64)
    b = design.exponent_intercept[:num_features] / float(design.unit)
    if design.exponential:
        added, information, of_intercept = 0.0, size, np.ones(num_features)
        shift = b + torch.digamma(torch.from_numpy(size)).numpy() - np.log(size)
    else:
        mean = np.exp(np.minimum(b + np.log(size), MEAN_OF_LOG))
        added, of_intercept = 1.0, mean / (mean + 1)
        # Up to the factor of the predictors, which divides the response.
        information, shift = size * (mean + 1) / (size + mean), np.log1p(mean)
    factor, typical = regression(W, information, of_intercept, float(design.precision))
    dtype = table.observed.dtype
    start = np.empty((num_rows, latent_dim), dtype)
    work = partial(
        _regress,
        table.observed,
        table.offset,
        table.weights,
        dtype.type(added),
        shift.astype(dtype),
        of_intercept.astype(dtype),
        factor.astype(dtype),
        dtype.type(typical),
        start,
    )
    in_threads(work, spans(num_rows, num_features, ENTRIES_TO_READ))
    return start


def regression(
    W: np.ndarray, information: np.ndarray, of_intercept: np.ndarray, precision: float
) -> tuple[np.ndarray, float]:
    """The coefficients of a regression on a row, ``(l, d)``, and the information it expects.

    Args:
        W: the loading, transposed, ``(l, d)``.
        information: the weight of each feature, ``(d,)``.
        of_intercept: by how much the response of each feature changes with its linear predictor.
        precision: precision of the latents; the information is a multiple of it.
    """
    weighted = W * information
    gram = (weighted * of_intercept) @ W.T
    typical = float(np.trace(gram) / len(W) / precision)
    gram[np.diag_indices(len(W))] += precision
    return np.linalg.solve(gram, weighted), typical


@compiled_once
def _regress(y, offset, weights, added, shift, of_intercept, factor, typical, start, begin, end):
    latent_dim, response = len(factor), np.empty((1, y.shape[1]), y.dtype)
    for s in range(begin, end):
        _respond(y, s, added, shift, response[0])
        if len(offset):
            subtract_offset(offset, s, of_intercept, response[0])
        if len(weights):
            weigh_response(weights, s, typical, response[0])
        for k in range(0, latent_dim - 1, 2):
            start[s, k], start[s, k + 1] = dots(response, 0, factor, k)
        if latent_dim % 2:
            start[s, latent_dim - 1] = dot(response, 0, factor, latent_dim - 1)


@numba.njit(**IN_ANY_ORDER)
def _respond(y, s, added, shift, response):
    for i in range(len(response)):
        response[i] = rough_log(y[s, i] + added) - shift[i]


@numba.njit(**OPTIONS)
def subtract_offset(offset, s, of_intercept, response):
    """Subtracts the offset of a row, as far as it counts."""
    row, last = s if len(offset) > 1 else 0, offset.shape[1] - 1
    for i in range(len(response)):
        response[i] -= of_intercept[i] * offset[row, min(i, last)]


@numba.njit(**OPTIONS)
def weigh_response(weights, s, typical, response):
    """Multiplies by the weights of a row, and by what they leave of its shrinkage.

    The regression is shrunk as if all weights were 1; ``typical`` is the information that it
    expects, as a multiple of the precision.
    """
    row, last = s if len(weights) > 1 else 0, weights.shape[1] - 1
    total = 0 * typical
    for i in range(len(response)):
        weight = weights[row, min(i, last)]
        response[i] *= weight
        total += weight
    scale = (1 + typical) / (1 + typical * total / len(response))
    for i in range(len(response)):
        response[i] *= scale
