"""The log likelihood of each entry of an observed site."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent


class EntryDistribution(NamedTuple):
    """The distribution of the entries of an observed site.

    Attributes:
        distribution: the distribution, with one element of its batch per entry.
        entry_ndim: how many of its last batch dimensions make up one event of the site.
        present: booleans that broadcast to its batch, False for a masked entry.
    """

    distribution: Any
    entry_ndim: int
    present: Tensor


def entry_distribution(site: Any) -> EntryDistribution:
    """Takes a site's distribution apart into independent entries.

    A table with rows as events, such as ``Normal(eta, 1).mask(m).to_event(1)``, has one entry per
    cell. A distribution that does not factorise over its event, such as a multivariate normal, has
    one entry per event. Masks may be at any level, or come from :func:`pyro.poutine.mask`.
    """
    distribution, entry_ndim, masks = site["fn"], 0, [(site["mask"], 0)]
    while True:
        if isinstance(distribution, MaskedDistribution):
            masks.append((distribution._mask, entry_ndim))
        elif isinstance(distribution, Independent):
            entry_ndim += distribution.reinterpreted_batch_ndims
        else:
            break
        distribution = distribution.base_dist
    present = torch.tensor(True)
    for mask, inside in masks:
        if mask is not None:
            mask = torch.as_tensor(mask).cpu()
            above = mask.reshape(mask.shape + (1,) * (entry_ndim - inside))
            present = present & above
    return EntryDistribution(distribution, entry_ndim, present)


@torch.no_grad()
def marginal_log_prob(site: Any) -> Tensor | None:
    """The log density of every event with its own latents integrated out, or None.

    A site provides it as a function ``marginal`` in its ``infer``.
    """
    marginal = site["infer"].get("marginal")
    return None if marginal is None else marginal().expand(site["fn"].batch_shape)


def entry_log_prob(site: Any) -> Tensor:
    """The log density of every entry, without masks and without the scale of plates."""
    return entry_distribution(site).distribution.log_prob(site["value"])
