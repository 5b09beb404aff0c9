"""Starting coefficients from the spectrum of the standardised residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.joint.objective import Objective

INTERCEPT_STEPS = 30
SMALL_DECREMENT = 1e-2
"""Intercepts are exact enough when they are this far from the best ones, on average over columns:
the squared distance in standard errors."""

POWER_STEPS = 4
OVERSAMPLING = 8
LARGEST_DEVIATION = 1.5
"""Natural parameters start within about twice this of the intercept, where no mean overflows."""


def spectral_start(problem: Objective, latent_dim: int) -> Tensor:
    r"""Coefficients ``(d, l + 1)`` to start from.

    The intercepts are fitted to each column alone. Under a model of intercepts alone, residuals
    divided by their standard deviations have variance 1. To first order, the excess of a principal
    component's variance over 1 is the variance of its natural parameters. The decomposition is
    approximated with random vectors (Halko, Martinsson and Tropp, 2011, algorithm 4.4).

    Raises:
        ValueError: if offsets are so large that means overflow.
    """
    num_rows, num_features = problem.table.num_rows, problem.table.num_features
    b = _fit_intercept(problem)
    coefficients = torch.cat([b.new_zeros(num_features, latent_dim), b[:, None]], 1)
    width = min(latent_dim + OVERSAMPLING, num_features)
    generator = torch.Generator(device=b.device).manual_seed(0)
    basis = torch.randn(num_features, width, generator=generator, device=b.device, dtype=b.dtype)
    for _ in range(POWER_STEPS):
        basis, _ = torch.linalg.qr(basis)
        basis = _gram_product(problem, coefficients, basis)
    if not bool(basis.isfinite().all()):
        raise ValueError(
            "offset must leave every mean finite, got natural parameters for which "
            f"{problem.table.family} has no finite mean: an offset is added to natural parameters, "
            "so that for counts it is the logarithm of a size"
        )
    basis, values, _ = torch.linalg.svd(basis, full_matrices=False)
    kept = min(latent_dim, width)
    excess = (values[:kept] / num_rows - 1).clamp(min=0).sqrt()
    deviation = _root_mean_variance(problem, coefficients)
    loading = basis[:, :kept] * excess.clamp(min=0.1) / deviation[:, None]
    largest = loading.norm(dim=1, keepdim=True).clamp(min=LARGEST_DEVIATION)
    coefficients[:, :kept] = loading * (LARGEST_DEVIATION / largest)
    return coefficients


def _fit_intercept(problem: Objective) -> Tensor:
    """Intercepts of a model without latents, by scoring with bounded steps.

    They are accurate to about a tenth of their standard errors, which suffices for a start.
    """
    b = _intercept_of_means(problem)
    for _ in range(INTERCEPT_STEPS):
        score, information = -problem.intercept_precision * b, torch.full_like(b, 1e-6)
        information += problem.intercept_precision
        for residual, variance in _residuals(problem, torch.stack([0 * b, b], 1)):
            score += residual.sum(0)
            information += variance.sum(0)
        step = (score / information).clamp(-1, 1)
        b = b + step
        if float((score * step).sum()) <= SMALL_DECREMENT * len(b):
            break
    return b


def _intercept_of_means(problem: Objective) -> Tensor:
    """Natural parameters of the column means, without regard to offsets.

    The mean of the table counts as one more observation of each column. It keeps the mean of a
    column off the boundary of its range.
    """
    total = problem.table.like.new_zeros(problem.table.num_features)
    count = torch.zeros_like(total)
    for _, rows in problem.table.tiles():
        statistic, weights = rows.statistic, rows.weights
        total += statistic.sum(0) if weights is None else (statistic * weights).sum(0)
        count += len(statistic) if weights is None else weights.expand(statistic.shape).sum(0)
    mean = (total + total.sum() / count.sum().clamp(min=1)) / (count + 1)
    # If the family differs per row, the family of the last rows is used for all.
    b = rows.family.natural_param(mean)
    return torch.atleast_2d(torch.where(b.isfinite(), b, 0.0)).mean(0)


def _residuals(problem: Objective, coefficients: Tensor):  # type: ignore[no-untyped-def]
    """Weighted residuals and variances without latents, tile by tile."""
    for _, tile in problem.tiles(coefficients):
        eta = tile.b if tile.offset is None else tile.b + tile.offset
        mean, variance = tile.family.mean_and_variance(eta)
        residual, variance = tile.statistic - mean, variance.expand(tile.statistic.shape)
        if tile.weights is None:
            yield residual, variance
        else:
            yield residual * tile.weights, variance * tile.weights


def _gram_product(problem: Objective, coefficients: Tensor, basis: Tensor) -> Tensor:
    product = torch.zeros_like(basis)
    for residual, variance in _residuals(problem, coefficients):
        standardised = residual * variance.clamp(min=1e-6).rsqrt()
        product += standardised.mT @ (standardised @ basis)
    return product


def _root_mean_variance(problem: Objective, coefficients: Tensor) -> Tensor:
    total = sum(variance.sum(0) for _, variance in _residuals(problem, coefficients))
    return (total / problem.table.num_rows).clamp(min=1e-6).sqrt()
