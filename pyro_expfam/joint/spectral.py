"""Starting coefficients from the spectrum of the standardised residuals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq.backend import law_terms_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families.kinds import take
from pyro_expfam.joint.known_part import fit_known
from pyro_expfam.joint.objective import Objective
from pyro_expfam.joint.table import Sums, TableRows

INTERCEPT_STEPS = 30
SMALL_DECREMENT = 1e-2
"""Intercepts are exact enough when they are this far from the best ones, on average over columns:
the squared distance in standard errors."""

POWER_STEPS = 4
OVERSAMPLING = 8
LARGEST_DEVIATION = 1.5
"""Natural parameters start within about twice this of the intercept, where no mean overflows."""


def spectral_start(problem: Objective, latent_dim: int) -> Tensor:
    r"""Coefficients ``(d, l + 1 + p)`` to start from.

    The intercepts, and the coefficients of covariates, are fitted to each column alone. Under a
    model without latents, residuals divided by their standard deviations have variance 1. To first
    order, the excess of a principal component's variance over 1 is the variance of its natural
    parameters. The decomposition is approximated with random vectors (Halko, Martinsson and Tropp,
    2011, algorithm 4.4). The last of the latents is the row effect, if there is one.

    Raises:
        ValueError: if offsets are so large that means overflow.
    """
    return spectral_start_from(problem, without_latents(problem), latent_dim)


def without_latents(problem: Objective) -> Tensor:
    """Intercepts, and coefficients of covariates, of a model without latents, ``(d, 1 + p)``."""
    b = _fit_intercept(problem)
    known = torch.nn.functional.pad(b[:, None], (0, problem.table.num_covariates))
    return fit_known(problem, known) if problem.table.num_covariates else known


def spectral_start_from(problem: Objective, known: Tensor, latent_dim: int) -> Tensor:
    """The same from the coefficients ``(d, 1 + p)`` of a model without latents."""
    num_rows, num_features = problem.table.num_rows, problem.table.num_predictors
    coefficients = torch.cat([known.new_zeros(num_features, latent_dim), known], 1)
    width = min(latent_dim + OVERSAMPLING, num_features)
    generator = torch.Generator(device=known.device).manual_seed(0)
    basis = torch.randn(
        num_features, width, generator=generator, device=known.device, dtype=known.dtype
    )
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
    return with_effect_of(problem, coefficients, latent_dim)


def with_effect_of(problem: Objective, coefficients: Tensor, latent_dim: int) -> Tensor:
    """Starting coefficients ``(d, l + 1 + p)`` in which a row effect has its own loading."""
    if problem.row_effect is None:
        return coefficients
    loading = problem.row_effect.start(coefficients[:, :latent_dim])
    return torch.cat([loading, coefficients[:, latent_dim:]], 1)


def _fit_intercept(problem: Objective) -> Tensor:
    """Intercepts of a model without latents, by scoring with bounded steps.

    They are accurate to about a tenth of their standard errors, which suffices for a start.
    """
    b = _intercept_of_means(problem)
    coefficients = b.new_zeros(len(b), 1 + problem.table.num_covariates)

    def of_entries(residual: Tensor, variance: Tensor) -> Sums:
        return residual.sum(0), variance.sum(0)

    for _ in range(INTERCEPT_STEPS):
        coefficients[:, 0] = b
        score, information = _residual_sums(problem, coefficients, of_entries)
        score = score - problem.intercept_precision * b
        information = information + problem.intercept_precision + 1e-6
        step = (score / information).clamp(-1, 1)
        b = b + step
        if float((score * step).sum()) <= SMALL_DECREMENT * len(b):
            break
    return b


def _intercept_of_means(problem: Objective) -> Tensor:
    """Linear predictors of the column means, without regard to offsets."""
    mean, family = mean_by_column(problem), problem.table.family
    # If the family differs per row, the family of the first row is used for all.
    if family.differs_by_row:
        b = problem.table.of_first_row(lambda: family.rows(slice(0, 1)).predictor(mean))
    else:
        b = family.predictor(mean)
    return torch.atleast_2d(torch.where(b.isfinite(), b, 0.0)).mean(0)


def mean_by_column(problem: Objective) -> Tensor:
    """The means of the columns, ``(d,)``, off the boundary of their range.

    The mean of all columns of one law counts as one more observation of each of them. It keeps the
    mean of a column off the boundary of its range. Real numbers have no such boundary, and columns
    with units of their own: their means stay as they are.
    """

    def of_rows(place: slice, rows: TableRows) -> Sums:
        del place
        if rows.weights is None:
            return rows.y.sum(0), torch.full_like(rows.y[0], len(rows.y))
        return (rows.y * rows.weights).sum(0), rows.weights.expand(rows.y.shape).sum(0)

    total, count = problem.table.sum(of_rows)
    of_kind = torch.empty_like(total)
    for kind in problem.table.family.kinds(problem.table.num_features):
        own_total, own_count = take(total, kind.predictors), take(count, kind.predictors)
        if kind.family.support is constraints.real:
            of_kind[kind.predictors] = own_total / own_count.clamp(min=1)
        else:
            of_kind[kind.predictors] = own_total.sum() / own_count.sum().clamp(min=1)
    return (total + of_kind) / (count + 1)


def _residual_sums(
    problem: Objective, coefficients: Tensor, of_entries: Callable[[Tensor, Tensor], Sums]
) -> Sums:
    """Sums over rows of functions of weighted residuals and variances without latents."""

    def of_rows(place: slice, rows: LatentProblem) -> Sums:
        del place
        eta = (rows.b if rows.offset is None else rows.b + rows.offset).expand(rows.y.shape)
        by_laws = law_terms_of(rows, problem.table.num_rows)
        if by_laws is None:
            return of_entries(rows.scores(eta), rows.informations(eta))
        matrices = eta.new_empty(3, *eta.shape)
        matrices[0] = eta
        return of_entries(*by_laws.law_terms(rows, matrices)[1:])

    return problem.sum(coefficients, of_rows)


def _gram_product(problem: Objective, coefficients: Tensor, basis: Tensor) -> Tensor:
    def of_entries(residual: Tensor, variance: Tensor) -> Sums:
        standardised = residual * variance.clamp(min=1e-6).rsqrt()
        return (standardised.mT @ (standardised @ basis),)

    (product,) = _residual_sums(problem, coefficients, of_entries)
    return product


def _root_mean_variance(problem: Objective, coefficients: Tensor) -> Tensor:
    def of_entries(residual: Tensor, variance: Tensor) -> Sums:
        del residual
        return (variance.sum(0),)

    (total,) = _residual_sums(problem, coefficients, of_entries)
    return (total / problem.table.num_rows).clamp(min=1e-6).sqrt()
