"""Mixed tables: each law by its own functions, in one pass of the lanes, compiled by Numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.deq.cpu.cpu_table import SMALLEST_RATE, CpuTable, coefficients
from pyro_expfam.deq.cpu.dispatch import add_to_gradients, sum_over_features, working_memory
from pyro_expfam.deq.cpu.evaluation import LANES, STRIDE
from pyro_expfam.deq.problem import LatentProblem


class MixedDesign(NamedTuple):
    """The columns of one law, and all others, which may be of several laws again.

    Attributes:
        first: the table of the first law.
        others: the table of all other laws.
        loading: transposed, and padded to an even number of latents; times the most by which a log
            variance changes with the linear predictor of a column.
        exponential: whether the variances of a law have no bound.
        precision: precision of the latents.
        self_concordance: 1, since it is a factor of the loading.
        rate: the most by which a log variance changes along a unit vector of latents.
    """

    first: Any
    others: Any
    loading: Any
    exponential: Any
    precision: Any
    self_concordance: Any
    rate: Any


def mixed_design(problem: LatentProblem, first: CpuTable, others: CpuTable) -> MixedDesign:
    """The design of a table whose laws have tables of their own, which hold no prior twice.

    Args:
        problem: the problem of the whole table.
        first: the table of its first law, with the prior.
        others: the table of its other laws, without the prior.
    """
    W, b = coefficients(problem)
    number, latent_dim = b.dtype.type, W.shape[1]
    factor = np.zeros((len(W), 1), W.dtype)
    for kind in problem.kinds:
        factor[kind.predictors] = kind.family.self_concordance
    loading = np.zeros((latent_dim + latent_dim % 2, len(W)), W.dtype)
    loading[:latent_dim] = (W * factor).T
    largest = float(np.square(loading).sum(0).max())
    return MixedDesign(
        first,
        others,
        loading,
        not problem.family.bounded_variance,
        number(problem.precision),
        number(1),
        number(max(largest**0.5, SMALLEST_RATE)),
    )


def evaluate_mixed(table, row, z, sums, information, work):
    """As ``evaluate``, for the columns of one law after the other; for compiled functions."""
    of_first, of_others, more_sums, more_information = work
    sum_over_features(table.design.first, row, z, sums, information, of_first)
    sum_over_features(table.design.others, row, z, more_sums, more_information, of_others)
    for k in range(len(sums)):
        for r in range(LANES):
            sums[k, r] += more_sums[k, r]
    for k in range(len(information)):
        for r in range(LANES):
            information[k, r] += more_information[k, r]


def add_mixed(table, row, z, u, work, total):
    """Adds what all lanes contribute to the gradients, law by law; for compiled functions."""
    of_first, of_others, _, _ = work
    first, others = table.design.first, table.design.others
    width = first.observed.shape[1]
    add_to_gradients(first, row, z, u, of_first, total[:, :width])
    add_to_gradients(others, row, z, u, of_others, total[:, width:])


def memory_of_mixed(table, latent_dim):
    """The memory of all laws, and memory for the sums of the others; for compiled functions."""
    dtype = table.design.loading.dtype
    return (
        working_memory(table.design.first, latent_dim),
        working_memory(table.design.others, latent_dim),
        np.zeros((latent_dim, LANES), dtype),
        np.zeros((latent_dim * (latent_dim + 1) // 2, STRIDE), dtype),
    )
