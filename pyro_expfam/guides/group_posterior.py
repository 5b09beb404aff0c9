"""The posterior of the latents of a group, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.deq.positive_definite import robust_cholesky
from pyro_expfam.guides.laplace_posterior import LaplacePosterior


def given_earlier(posterior: Any, sizes: Sequence[int], earlier: Sequence[Tensor]) -> Any:
    """The distribution of the latents of the next site, given the latents of the sites before it.

    The latents of later sites are integrated out.

    Args:
        posterior: a point mass or a normal of the latents of all sites, side by side.
        sizes: the number of latents per row of each site.
        earlier: the latents of the sites before, each ``(..., N, size)``.

    Raises:
        NotImplementedError: for a posterior of another kind.
    """
    if len(sizes) == 1:
        return posterior
    place = len(earlier)
    begin = sum(sizes[:place])
    end = begin + sizes[place]
    if isinstance(posterior, dist.Delta):
        return dist.Delta(posterior.v[..., begin:end], event_dim=1)
    if not isinstance(posterior, LaplacePosterior):
        raise NotImplementedError(
            "latents of several blocks that depend on one another want a posterior that is a point "
            f"mass or a LaplacePosterior, got {type(posterior).__name__}"
        )
    return _conditional(posterior, begin, end, earlier)


def _conditional(
    posterior: LaplacePosterior, begin: int, end: int, earlier: Sequence[Tensor]
) -> LaplacePosterior:
    precision, loc = posterior.precision_matrix, posterior.loc
    if end < loc.shape[-1]:
        # Integrating out later latents leaves the Schur complement of their precision.
        across = precision[..., :end, end:]
        later = precision[..., end:, end:]
        precision = precision[..., :end, :end] - across @ torch.linalg.solve(later, across.mT)
        loc = loc[..., :end]
    own = precision[..., begin:end, begin:end]
    mean = loc[..., begin:end]
    if begin:
        moved = torch.cat(list(earlier), -1) - loc[..., :begin]
        pull = (precision[..., begin:end, :begin] @ moved.unsqueeze(-1)).squeeze(-1)
        mean = mean - torch.linalg.solve(own, pull)
    factor, _ = robust_cholesky(own, lambda index: own.double()[index])
    return LaplacePosterior(mean, factor)


def marginal(posterior: Any, place: slice) -> Any:
    """The normal of some of the latents of rows, with all others integrated out.

    Args:
        posterior: the normal of all latents, side by side.
        place: which of them.
    """
    if len(range(posterior.event_shape[0])[place]) == posterior.event_shape[0]:
        return posterior
    covariance = posterior.covariance_matrix[..., place, place]
    factor, _ = robust_cholesky(
        torch.linalg.inv(covariance), lambda index: torch.linalg.inv(covariance.double()[index])
    )
    return LaplacePosterior(posterior.loc[..., place], factor)
