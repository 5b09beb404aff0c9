"""Pareto smoothing of importance weights, for many estimates at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ALIKE = 0.1
"""Weights with a smaller relative standard deviation are nearly constant.

Such draws are worth more than 99% as many draws from the posterior itself: the mean of 1,000
weights has a standard error of 0.3%. A law fitted to their few largest values adds no information,
and its shape, a ratio of tiny differences, can take any value.
"""

PRIOR_SHAPE, PRIOR_SIZE = 0.5, 10
"""The prior of the shape: its mean, and the number of values in the tail that it is worth."""


class SmoothedWeights(NamedTuple):
    """Importance weights, with the largest ones smoothed.

    Attributes:
        log_weights: normalised log weights, ``(..., S)``.
        khat: the shape of the Pareto distribution of the largest weights, ``(...)``. It is minus
            infinity if the weights are nearly constant, with a relative standard deviation below
            0.1, and infinity if all but a few weights are zero.
    """

    log_weights: Tensor
    khat: Tensor


def smooth(log_ratios: Tensor) -> SmoothedWeights:
    r"""Pareto-smoothed weights from log ratios ``(..., S)`` of S draws.

    The largest :math:`\lceil \min(S/5, 3 \sqrt S) \rceil` weights are replaced by the expected
    order statistics of the generalised Pareto distribution that fits them. Nearly constant weights
    have no tail, and stay as they are.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*,
    Journal of Machine Learning Research 25 (2024).

    Example:
        >>> import torch
        >>> from pyro_expfam.evidence.pareto import smooth
        >>> log_ratios = torch.distributions.Exponential(2.0).sample((3, 1000))
        >>> smooth(log_ratios).khat.shape
        torch.Size([3])
    """
    shifted = log_ratios.double() - log_ratios.double().amax(-1, keepdim=True)
    size = shifted.shape[-1]
    tail_size = tail_length(size)
    values, order = shifted.sort(-1)
    body, tail = values[..., :-tail_size], values[..., -tail_size:]
    cutoff = body[..., -1:].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    excess = (tail.exp() - cutoff.exp()).clamp(min=0)
    weights = values.exp()
    alike = weights.std(-1) < ALIKE * weights.mean(-1)
    # There is no fit unless at least three in four of the largest weights exceed the others.
    fits = (_quartile(excess) > 0).squeeze(-1) & ~alike
    shape, scale = _fit(torch.where(fits.unsqueeze(-1), excess, 1.0))
    middle = (torch.arange(tail_size, device=tail.device, dtype=tail.dtype) + 0.5) / tail_size
    expected = (_quantile(middle, shape, scale) + cutoff.exp()).log().clamp(max=0)
    smoothed = torch.cat([body, torch.where(fits.unsqueeze(-1), expected, tail)], -1)
    log_weights = torch.empty_like(smoothed).scatter(-1, order, smoothed)
    khat = torch.where(fits, shape.squeeze(-1), torch.inf)
    return SmoothedWeights(
        log_weights.log_softmax(-1), khat.masked_fill(alike, -torch.inf).to(log_ratios.dtype)
    )


def tail_length(num_draws: int) -> int:
    """The number of the largest weights that are smoothed."""
    return math.ceil(min(num_draws / 5, 3 * math.sqrt(num_draws)))


def grid_size(tail_size: int) -> int:
    """The number of values that the fit averages over."""
    return 30 + math.isqrt(tail_size)


def _quartile(ordered: Tensor) -> Tensor:
    """The lower quartile of values in increasing order, ``(..., 1)``."""
    position = int(ordered.shape[-1] / 4 + 0.5) - 1
    return ordered[..., position : position + 1]


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale ``(..., 1)`` of the generalised Pareto law of values in increasing order.

    They are posterior means under a weak prior, on a grid of one transformed parameter.

    Source: Zhang and Stephens, *A new and efficient estimation method for the generalized Pareto
    distribution*, Technometrics 51 (2009); Vehtari et al. (2024) for the prior of the shape.
    """
    size = excess.shape[-1]
    count = grid_size(size)
    step = torch.arange(count, device=excess.device, dtype=excess.dtype) + 0.5
    theta = 1 / excess[..., -1:] + (1 - (count / step).sqrt()) / (3 * _quartile(excess))
    shape = torch.log1p(-theta.unsqueeze(-1) * excess.unsqueeze(-2)).mean(-1)
    log_likelihood = size * ((-theta / shape).log() - shape - 1)
    mean = (log_likelihood.softmax(-1) * theta).sum(-1, keepdim=True)
    fitted = torch.log1p(-mean * excess).mean(-1, keepdim=True)
    regular = (size * fitted + PRIOR_SIZE * PRIOR_SHAPE) / (size + PRIOR_SIZE)
    return regular, -fitted / mean


def _quantile(probability: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Quantiles of the generalised Pareto distribution."""
    exponent = -torch.log1p(-probability)
    exponential = shape.abs() < torch.finfo(shape.dtype).eps
    safe = torch.where(exponential, 1.0, shape)
    return scale * torch.where(exponential, exponent, torch.expm1(safe * exponent) / safe)
