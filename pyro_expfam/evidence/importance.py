"""Importance sampling from the Laplace posterior of each row, with its diagnostic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.layer import make_problem, make_solver, solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.laplace import laplace_evidence
from pyro_expfam.evidence.pareto import grid_size, smooth, tail_length
from pyro_expfam.families import Family

FEWEST_DRAWS = 50
"""The fewest draws; fewer have too few large weights to fit."""

KHAT_DRAWS = 1000
"""The draws in a guide's own report; from fewer, the shape cannot tell heavy tails from light ones.
"""


class ImportanceEvidence(NamedTuple):
    r"""The log evidence of rows by importance sampling, and its reliability.

    Attributes:
        log_evidence: the estimate in nats, ``(..., N)``.
        standard_error: its Monte Carlo standard error, ``(..., N)``.
        khat: the Pareto shape of the weights, ``(..., N)``. Beyond
            :math:`\min(0.7, 1 - 1 / \log_{10} S)` for :math:`S` draws neither the estimate nor
            the normal around the root is reliable. It is minus infinity, the best value, if the
            weights vary by less than a tenth of their mean and so have no tail.
        correction: the estimate minus the Laplace approximation, ``(..., N)``. It estimates the
            error of the Laplace approximation, with the same standard error.
    """

    log_evidence: Tensor
    standard_error: Tensor
    khat: Tensor
    correction: Tensor


def importance_evidence(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    num_draws: int = 1000,
) -> ImportanceEvidence:
    r"""The log evidence of every row by importance sampling, with its standard error.

    Latents are drawn from the Laplace posterior, :math:`q(z) = N(z^*, H^{-1})`. The average of
    the weights :math:`p(z, y) / q(z)` is an unbiased estimate of the evidence, which measures the
    error of the approximations in :func:`~pyro_expfam.log_evidence`. Draws of different rows are
    independent, so that the squares of their standard errors add up. No gradient is taken.

    Source: Geweke (1989); Vehtari et al. (2024) for the diagnostic.

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, d)``.
        W: loading, ``(..., d, l)``, float32 or float64; it sets dtype and device of the result.
        b: intercept, ``(..., d)``.
        precision: precision of the latents, positive, a number or ``(...)``.
        offset: known part of the natural parameters, broadcastable to ``(..., N, d)``.
        mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry.
        weights: non-negative weights of the entries' log densities, broadcastable to
            ``(..., N, d)``; an entry of weight 2 counts as two observations.
        num_draws: draws of the latents of a row, at least 50; with fewer than 1,000 the Pareto
            shape is itself uncertain by 0.2 and more.

    Returns:
        The :class:`ImportanceEvidence`, with one value per row.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit; the message names the argument.

    Warns:
        ConvergenceWarning: if some rows did not reach the root. The estimate stays unbiased.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.tensor([[0.0, 3.0]])
        >>> result = pef.evidence.importance_evidence(pef.families.Poisson(), y, W, b)
        >>> exact = -4.2002  # by quadrature
        >>> bool((result.log_evidence - exact).abs() < 5 * result.standard_error)
        True
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return sample_evidence(problem, solve(problem, make_solver()).value, num_draws)


def importance_latents(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    num_samples: int = 100,
    num_draws: int = 1000,
) -> Tensor:
    r"""Latents from the posterior of every row, by importance resampling of Laplace draws.

    They are chosen, with replacement, among ``num_draws`` draws from the Laplace posterior, by
    Pareto-smoothed weights. This corrects for skewness and tails if the weights are reliable
    according to :func:`importance_evidence`. Take several times as many draws as samples, or many
    samples will be equal. Other arguments, errors and warnings are as in
    :func:`importance_evidence`.

    Source: Rubin (1988); Vehtari et al. (2024).

    Args:
        family: as for :func:`importance_evidence`, like the next seven.
        y: observations, ``(..., N, d)``.
        W: loading, ``(..., d, l)``.
        b: intercept, ``(..., d)``.
        precision: precision of the latents.
        offset: known part of the natural parameters.
        mask: False for a missing entry.
        weights: weights of the entries' log densities.
        num_samples: samples to return for every row.
        num_draws: draws of each row's latents to choose among.

    Returns:
        Latents, ``(num_samples, ..., N, l)``.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.zeros(3, 2)
        >>> pef.evidence.importance_latents(pef.families.Poisson(), y, W, b).shape
        torch.Size([100, 3, 1])
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return resample_latents(problem, solve(problem, make_solver()).value, num_samples, num_draws)


@torch.no_grad()
def sample_evidence(problem: LatentProblem, z: Tensor, num_draws: int = 1000) -> ImportanceEvidence:
    """The result of :func:`importance_evidence` for a problem at latents ``z`` ``(..., N, l)``.

    The latents are the centre of the proposal, and need not be the root.
    """
    parts = []
    for _, log_ratios in _draws(problem, z, num_draws):
        khat = smooth(log_ratios).khat
        parts.append(torch.stack([*_log_mean(log_ratios), khat]))
    correction, error, khat = torch.cat(parts, -1)
    laplace = laplace_evidence(problem, z)
    return ImportanceEvidence(
        (laplace.double() + correction).to(z.dtype),
        error.to(z.dtype),
        khat.to(z.dtype),
        correction.to(z.dtype),
    )


@torch.no_grad()
def resample_latents(
    problem: LatentProblem, z: Tensor, num_samples: int = 100, num_draws: int = 1000
) -> Tensor:
    """The result of :func:`importance_latents` for a problem at latents ``z`` ``(..., N, l)``."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"num_samples must be a whole number of at least 1, got {num_samples!r}")
    parts = []
    for draws, log_ratios in _draws(problem, z, num_draws):
        weights = smooth(log_ratios).log_weights.exp()
        chosen = torch.multinomial(weights.flatten(0, -2), num_samples, replacement=True)
        index = chosen.T.reshape(num_samples, *weights.shape[:-1], 1)
        parts.append(draws.gather(0, index.expand(*index.shape[:-1], z.shape[-1])))
    return torch.cat(parts, -2).to(z.dtype)


def khat_threshold(num_draws: int) -> float:
    r"""The largest Pareto shape at which estimates from this number of draws are reliable.

    Source: Vehtari et al. (2024), :math:`\min(0.7, 1 - 1 / \log_{10} S)`.
    """
    return min(0.7, 1 - 1 / math.log10(num_draws))


def _draws(problem: LatentProblem, z: Tensor, num_draws: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents ``(S, ..., R, l)`` and their log ratios ``(..., R, S)``, some rows at a time.

    The log ratios are relative to the Laplace evidence. Antithetic draws would lower their variance
    except for the part from rare draws, so that standard errors would be too small.
    """
    _check_num_draws(num_draws)
    z = z.expand(*problem.batch_shape, *z.shape[-2:])
    num_features = problem.num_features
    tail_size = tail_length(num_draws)
    batch = z.shape[:-2].numel()
    row_entries = batch * max(num_draws * num_features, grid_size(tail_size) * tail_size)
    # A term is evaluated at all rows, so that some rows at a time would take as long for each part.
    whole = [slice(0, problem.num_rows)]
    of_table = problem.term is None
    for tile in tiles(problem.num_rows, row_entries, z.device) if of_table else whole:
        rows, centre = problem.rows(tile).double(), z[..., tile, :].double()
        noise = torch.randn(num_draws, *centre.shape, dtype=centre.dtype, device=centre.device)
        expansion = Expansion(rows, centre)
        draws = centre + (noise.unsqueeze(-2) @ expansion.whitening).squeeze(-2)
        objective = torch.cat([rows.objective(draws[part]) for part in _parts(draws, num_features)])
        log_ratios = rows.objective(centre) - objective + 0.5 * noise.square().sum(-1)
        yield draws, log_ratios.movedim(0, -1)


def _parts(draws: Tensor, num_features: int) -> Iterator[slice]:
    """Slices of the draws, in case that even one row has too many draws for one evaluation."""
    return tiles(len(draws), draws[0, ..., 0].numel() * num_features, draws.device)


def _log_mean(log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean of weights ``(..., S)``, and its standard error.

    To first order, the error of the logarithm is the relative error of the mean.
    """
    largest = log_ratios.amax(-1, keepdim=True)
    weights = (log_ratios - largest).exp()
    mean = weights.mean(-1)
    error = weights.std(-1) / (math.sqrt(weights.shape[-1]) * mean)
    return mean.log() + largest.squeeze(-1), error


def _check_num_draws(num_draws: int) -> None:
    whole = isinstance(num_draws, int) and not isinstance(num_draws, bool)
    if not whole or num_draws < FEWEST_DRAWS:
        raise ValueError(
            f"num_draws must be a whole number of at least {FEWEST_DRAWS}, got {num_draws!r}"
        )
