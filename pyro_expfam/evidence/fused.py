"""Functions of rows by the kernels of a CUDA device."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.positive_definite import cholesky, inverse_lower
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_function import Fused


class Shares(NamedTuple):
    """The coefficients of the two parts of a function of rows.

    Attributes:
        joint: the coefficient of the log density of observations and latents, without the powers of
            two pi in the normaliser of the prior.
        half_log_det: the coefficient of half the log determinant of the information.
    """

    joint: float
    half_log_det: float


def by_kernels(shares: Shares) -> Fused:
    """A sum of the log joint density and half the log determinant, by kernels."""
    return Fused(partial(_value, shares), partial(_gradients, shares))


def _value(shares: Shares, problem: LatentProblem, z: Tensor) -> Tensor:
    # Only here: Triton takes a second to import.
    from pyro_expfam.deq.cuda.evidence import row_evidence

    found = row_evidence(problem, z, SMALLEST_PIVOT[z.dtype])
    log_det = found.log_det.double()
    failed = (~found.resolved).nonzero().squeeze(-1)
    if len(failed):
        again = Expansion(problem.rows(failed).double(), z[failed].double())
        log_det[failed] = again.log_det_information()
    value = 0.5 * shares.half_log_det * log_det
    if shares.joint:
        precision, square = problem.precision.double(), z.double().square().sum(-1)
        log_prior = 0.5 * (problem.latent_dim * precision.log() - precision * square)
        value += shares.joint * (_log_base_measure(problem) - found.loss + log_prior)
    return value


def _log_base_measure(problem: LatentProblem) -> Tensor:
    """Sums over the features of log base measures, ``(N,)``."""
    sums = []
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        base = rows.family.log_base_measure(rows.y)
        sums.append(rows.weighted(base).sum(-1, dtype=torch.float64))
    return torch.cat(sums)


def _gradients(
    shares: Shares, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients:
    # Only here: Triton takes a second to import.
    from pyro_expfam.deq.cuda.evidence import (
        evidence_gradients,
        information_matrices,
        third_moment,
    )

    factor, _ = cholesky(information_matrices(problem, z).double())
    whitening = inverse_lower(factor)
    covariance = whitening.mT @ whitening
    single = covariance.to(z.dtype)
    of_log_det = shares.half_log_det * grad
    # The gradient of the log joint density in the latents vanishes at the root.
    reached = 0.5 * of_log_det[:, None] * third_moment(problem, z, single)
    u = (covariance @ reached.double().unsqueeze(-1)).squeeze(-1).to(z.dtype)
    of_likelihood = shares.joint * grad
    wants_offset = "offset" in needed
    found = evidence_gradients(problem, z, single, of_likelihood, of_log_det, u, wants_offset)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    of_prior = 0.5 * (problem.latent_dim / problem.precision - z.square().sum(-1))
    by_row = of_likelihood * of_prior + 0.5 * of_log_det * trace - (u * z).sum(-1)
    gradients = {"W": found.W, "b": found.b, "precision": by_row.sum().to(z.dtype)}
    if found.offset is not None:
        gradients["offset"] = found.offset
    return gradients
