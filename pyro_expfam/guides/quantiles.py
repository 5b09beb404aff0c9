"""Quantiles of the latents of a guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor


def normal_quantiles(mean: Tensor, scale: Tensor, quantiles: Sequence[float]) -> Tensor:
    """The quantiles of normals, along a first dimension.

    Args:
        mean: means of any shape.
        scale: standard deviations of the same shape.
        quantiles: probabilities between 0 and 1, ``(k,)``.

    Returns:
        A tensor ``(k, ...)``.

    Example:
        >>> import torch
        >>> normal_quantiles(torch.zeros(2), torch.tensor([1.0, 2.0]), [0.5, 0.84134475])
        tensor([[0.0000, 0.0000],
                [1.0000, 2.0000]])
    """
    at = torch.as_tensor(quantiles, dtype=mean.dtype, device=mean.device)
    if at.dim() != 1 or bool(((at < 0) | (at > 1)).any()):
        raise ValueError(f"quantiles must be a list of numbers from 0 to 1, got {quantiles!r}")
    standard = torch.special.ndtri(at).reshape(-1, *[1] * mean.dim())
    # The quantile of a point is the point, at 0 and 1 too.
    return torch.where(scale == 0, mean, mean + standard * scale)


def guide_quantiles(
    guide: AutoGuide, quantiles: Sequence[float], args: Any, kwargs: Any
) -> dict[str, Tensor]:
    """The quantiles of a guide by site name; a point estimate is each of its own quantiles.

    Args:
        guide: a guide of Pyro or of this package.
        quantiles: probabilities between 0 and 1, ``(k,)``.
        args: the arguments of the model.
        kwargs: the arguments of the model by name.
    """
    if hasattr(guide, "quantiles"):
        found: dict[str, Tensor] = guide.quantiles(quantiles, *args, **kwargs)
        return found
    points = guide.median(*args, **kwargs)
    return {
        name: normal_quantiles(value, torch.zeros_like(value), quantiles)
        for name, value in points.items()
    }
