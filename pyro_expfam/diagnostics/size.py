"""The size of a container, computed before it is made."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

from pyro_expfam.diagnostics.group_variables import events_present
from pyro_expfam.diagnostics.sites import Site

CURES = (
    "draw fewer (num_samples=), leave groups out (groups=[...]), keep log likelihoods in single "
    "precision (log_likelihood_dtype='float32'), pass some of the rows, or allow more "
    "(max_gigabytes=)"
)


def bytes_by_group(
    latents: Iterable[tuple[Site, Any]],
    observed: Iterable[tuple[Site, Any]],
    marginals: Iterable[Site],
    groups: Collection[str],
    num_samples: int,
    log_likelihood_dtype: np.dtype,
) -> dict[str, int]:
    """The bytes of the draws of each group.

    Args:
        latents: the sites of the groups ``posterior`` and ``prior``, with their traces.
        observed: the observed sites, with their traces.
        marginals: for each log density with latents integrated out, the site whose rows it is of.
        groups: the groups to make.
        num_samples: number of draws.
        log_likelihood_dtype: the type of log likelihoods.
    """
    latent_bytes = sum(_entries(site) * _width(trace) for site, trace in latents)
    sizes = {"posterior": latent_bytes, "prior": latent_bytes}
    for site, trace in observed:
        inside = math.prod(site.shape[site.present.ndim :])
        present = int(site.present.sum())
        missing = site.present.size - present
        width = _table_width(site, trace)
        table = _entries(site) * width
        listed = present * inside * width if missing else 0
        numbers = present
        if site.entry_ndim:
            numbers += int(events_present(site).sum())
        for group, size in {
            "posterior_predictive": table + listed,
            "predictions": missing * inside * _width(trace),
            "log_likelihood": numbers * log_likelihood_dtype.itemsize,
            "prior_predictive": table,
        }.items():
            sizes[group] = sizes.get(group, 0) + size
    rows = sum(_rows(site) for site in marginals)
    likelihoods = sizes.get("log_likelihood", 0) + rows * log_likelihood_dtype.itemsize
    sizes["log_likelihood"] = likelihoods
    return {group: num_samples * size for group, size in sizes.items() if group in groups}


def check_size(sizes: dict[str, int], max_gigabytes: float) -> None:
    """Raises an error with the size of each group unless their sum is small enough.

    Raises:
        ValueError: if the sum is more than ``max_gigabytes``, in units of 10⁹ bytes.
    """
    total = sum(sizes.values())
    if total <= max_gigabytes * 1e9:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{group} {_text(size)}" for group, size in largest if size >= total / 100)
    raise ValueError(
        f"the container would take {_text(total)}, more than max_gigabytes={max_gigabytes:g}: "
        f"{parts}. To make it smaller, {CURES}"
    )


def _text(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size >= 1e8 else f"{size / 1e6:,.3g} MB"


def _entries(site: Site) -> int:
    return math.prod(site.sizes.values())


def _rows(site: Site) -> int:
    """The number of events of a site with an entry that is present."""
    if site.is_observed:
        return int(events_present(site).sum())
    return math.prod(site.sizes_of(len(site.dims) - site.event_ndim).values())


def _width(trace: Any) -> int:
    """The bytes of a number, at least single precision."""
    dtype: torch.dtype = trace["value"].dtype
    return max(dtype.itemsize, 4) if dtype.is_floating_point else dtype.itemsize


def _table_width(site: Site, trace: Any) -> int:
    """The bytes of a number in a table, where NaN stands for a missing entry."""
    whole = bool(site.present.all())
    return _width(trace) if whole or trace["value"].is_floating_point() else 8
