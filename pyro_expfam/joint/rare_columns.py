"""Columns and latents of which a sample of the rows says too little."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.spectral import spectral_start_from, with_effect_of, without_latents

ENOUGH = 5.0
"""The least information of an intercept per coefficient of its column, where a change of a linear
predictor by 1 may multiply the variance by e."""

LOST = 1e-2
"""A latent is lost if so small a part of its squared loading is in other columns than rare ones."""

NOTHING = 1e-6
"""A squared loading of a latent without effect."""


def with_rare_columns(
    problem: JointProblem,
    sample: JointProblem,
    coefficients: Tensor,
    latent_dim: int,
    solver: Solver,
) -> Tensor:
    """Coefficients ``(d, l + 1 + p)`` of a sample, without loadings where it says too little.

    A column of few events may have none in the sample, and its intercept has then run away. Such
    columns start from intercepts of the whole table. A latent of such columns alone would be left
    without a loading, as a latent is for which the sample has too few rows. Where loading and
    latents are zero the objective has no gradient: such latents start from the residuals of the
    whole table.

    Args:
        problem: the joint objective of the whole table.
        sample: the joint objective of the sample.
        coefficients: its optimum.
        latent_dim: the number of latents ``l``.
        solver: the solver for the latents of the sample.
    """
    z = coefficients.new_zeros(sample.table.num_own_rows, latent_dim)
    information = sample.columns(coefficients, z, solver).information[:, latent_dim, latent_dim]
    least = ENOUGH * coefficients.shape[1] * _largest_rate(sample, coefficients).square()
    # A comparison with NaN is False.
    rare, size = ~(information >= least), problem.num_rotated(latent_dim)
    squares = coefficients[:, :size].square()
    left = (squares * ~rare[:, None]).sum(0)
    lost = ~(left > (LOST * squares.sum(0)).clamp(min=NOTHING))
    if not bool(rare.any() | lost.any()):
        return coefficients
    known = without_latents(problem)
    start = torch.cat([known.new_zeros(len(known), latent_dim), known], 1)
    found = torch.where(rare[:, None], with_effect_of(problem, start, latent_dim), coefficients)
    if bool(lost.any()):
        spectral = spectral_start_from(problem, known, latent_dim)[:, :size]
        found[:, :size] = _with_lost(found[:, :size], lost, spectral)
    return found


def _with_lost(loading: Tensor, lost: Tensor, spectral: Tensor) -> Tensor:
    """A loading ``(d, l)`` in which the lost latents have what is new in another one.

    Args:
        loading: the loading.
        lost: which latents are lost, booleans ``(l,)``.
        spectral: the other loading, ``(d, l)``.
    """
    basis, _ = torch.linalg.qr(loading[:, ~lost])
    left, values, _ = torch.linalg.svd(
        spectral - basis @ (basis.mT @ spectral), full_matrices=False
    )
    found, kept = loading.masked_fill(lost, 0.0), min(int(lost.sum()), len(values))
    found[:, lost.nonzero().squeeze(-1)[:kept]] = left[:, :kept] * values[:kept]
    return found


def _largest_rate(problem: JointProblem, like: Tensor) -> Tensor:
    """The most by which a log variance changes with a linear predictor, by predictor, ``(d,)``."""
    table = problem.table
    rates = torch.ones_like(like[:, 0])
    for kind in table.family.kinds(table.num_features):
        rate = kind.family.self_concordance
        rates[kind.predictors] = 1.0 if rate is None else rate
    return rates
