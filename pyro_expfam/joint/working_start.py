"""Starting coefficients from the linear predictors of the entries themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.spectral import (
    LARGEST_DEVIATION,
    OVERSAMPLING,
    POWER_STEPS,
    mean_by_column,
    with_effect_of,
)
from pyro_expfam.joint.table import Sums, TableRows

SHRINKAGE = 0.1
"""The weight of the column's mean beside an entry, which keeps zeros off minus infinity."""


def has_working_start(problem: Objective) -> bool:
    """Whether linear predictors of entries are quickly found: by a link, not by bisection."""
    table = problem.table
    kinds = table.family.kinds(table.num_features)
    return not table.family.is_coupled and all(x.family.own_link is not None for x in kinds)


def working_start(problem: Objective, known: Tensor, latent_dim: int) -> Tensor:
    """Coefficients ``(d, l + 1 + p)`` at the principal components of entries' linear predictors.

    A few of the largest entries make nearly all of the residuals of counts with heavy tails, and
    the spectrum of the residuals shows these entries alone. Their logarithms have no such tails. In
    general, these are the linear predictors whose means are the entries, after every entry has been
    drawn a little to the mean of its column.

    Args:
        problem: the objective.
        known: intercepts and coefficients of covariates of a model without latents, ``(d, 1 + p)``.
        latent_dim: the number of latents ``l``.
    """
    num_features, width = len(known), min(latent_dim + OVERSAMPLING, len(known))
    generator = torch.Generator(device=known.device).manual_seed(0)
    basis = torch.randn(
        num_features, width, generator=generator, device=known.device, dtype=known.dtype
    )
    mean, num_rows = mean_by_column(problem), problem.table.num_rows

    def deviations(rows: TableRows, centre: Tensor | float) -> Tensor:
        shrunk = (rows.y + SHRINKAGE * mean) / (1 + SHRINKAGE)
        predictor = rows.family.predictor(shrunk)
        own = predictor if rows.offset is None else predictor - rows.offset
        if rows.covariates is not None:
            own = own - rows.covariates @ known[:, 1:].mT
        deviation = torch.nan_to_num(own - centre, posinf=0.0, neginf=0.0)
        return deviation if rows.weights is None else deviation * rows.weights.clamp(max=1)

    def totals(place: slice, rows: TableRows) -> Sums:
        del place
        present = torch.ones_like(rows.y) if rows.weights is None else rows.weights.clamp(max=1)
        return deviations(rows, 0.0).sum(0), present.expand(rows.y.shape).sum(0)

    total, count = problem.table.sum(totals)
    centre = total / count.clamp(min=1e-6)
    for _ in range(POWER_STEPS):
        basis, _ = torch.linalg.qr(basis)

        def products(place: slice, rows: TableRows, basis: Tensor = basis) -> Sums:
            del place
            deviation = deviations(rows, centre)
            return (deviation.mT @ (deviation @ basis),)

        (basis,) = problem.table.sum(products)
    basis, values, _ = torch.linalg.svd(basis, full_matrices=False)
    kept = min(latent_dim, width)
    loading = basis[:, :kept] * (values[:kept] / num_rows).sqrt()
    largest = loading.norm(dim=1, keepdim=True).clamp(min=LARGEST_DEVIATION)
    coefficients = torch.cat([known.new_zeros(num_features, latent_dim), known], 1)
    coefficients[:, :kept] = loading * (LARGEST_DEVIATION / largest)
    return with_effect_of(problem, coefficients, latent_dim)
