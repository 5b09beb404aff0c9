"""Observations beside what the posterior predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level
from pyro_expfam.plots.containers import variable_of
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, axes_or_new


def plot_reconstruction(
    observed: Any,
    predictive: Any = None,
    rows: Sequence[int] | None = None,
    features: Sequence[int] | None = None,
    level: float = 0.9,
    variable: str = "y",
    ax: Any = None,
) -> Any:
    """Observations against their posterior predictive mean, with predictive intervals.

    Each entry has a bar at its predictive mean, between quantiles of its draws, and its
    observation as a point: blue inside the interval, vermillion outside. The title says how many
    are inside; for discrete observations that is at least ``level`` under the model.

    Args:
        observed: a container of ArviZ, from :func:`~pyro_expfam.to_arviz`; or
            observations, ``(N, d)``, in which NaN is missing.
        predictive: posterior predictive draws of observations that are not in a container,
            ``(..., N, d)``.
        rows: the rows to show; by default all.
        features: the features to show; by default all.
        level: probability of an interval.
        variable: the observed variable of the container.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers, or observations come without draws.
        ValueError: if a shape, level or position does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((20, 6), 2.0))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=2)
        >>> guide = pef.LaplaceGuide(model)
        >>> fit = guide.fit(y)
        >>> idata = pef.to_arviz(model, guide, y, num_samples=100)
        >>> ax = pef.plots.plot_reconstruction(idata, rows=[0, 1])
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('posterior predictive mean', 'observed')
    """
    if is_container(observed):
        predictive = variable_of(observed, "posterior_predictive", variable).values
        observed = variable_of(observed, "observed_data", variable).values
    elif predictive is None:
        raise TypeError(
            "predictive must be posterior predictive draws where observed is not a container of "
            f"ArviZ, got observed of type {type(observed).__name__} alone"
        )
    y, draws = as_array("observed", observed), as_array("predictive", predictive)
    if y.size == 0 or draws.ndim <= y.ndim or draws.shape[draws.ndim - y.ndim :] != y.shape:
        wanted = ", ".join(map(str, ("...", *y.shape)))
        raise ValueError(
            f"predictive must be draws of shape ({wanted}) for observed of shape {y.shape}, not "
            f"empty, got {draws.shape}"
        )
    draws = draws.reshape(-1, *y.shape)
    as_level(level)
    shown = _selection(y, rows, features)
    value, samples = y[shown], draws[:, shown]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean, inside = samples.mean(0), (low <= value) & (value <= high)

    ax = axes_or_new(ax, figsize=(5.0, 4.0))
    ends = min(mean.min(), value.min()), max(mean.max(), value.max())
    ax.plot(ends, ends, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    size = float(np.clip(3000 / value.size, 2, 16))
    opacity = float(np.clip(60 / value.size, 0.02, 0.45))
    ax.vlines(mean, low, high, color=BLUE, alpha=opacity, linewidth=1.5, zorder=1)
    for which, colour in ((inside, BLUE), (~inside, VERMILLION)):
        ax.scatter(mean[which], value[which], s=size, color=colour, linewidths=0, zorder=2)
    ax.set(xlabel="posterior predictive mean", ylabel="observed")
    # Counted, since a share that is rounded to 100% would deny the few that are outside.
    ax.set_title(f"{inside.sum():,} of {value.size:,} entries in {level:.0%} intervals")
    return ax


def _selection(y: Array, rows: Any, features: Any) -> Array:
    """Which entries to show."""
    shown = ~np.isnan(y)
    for name, chosen, axis in (("rows", rows, 0), ("features", features, 1)):
        if chosen is None:
            continue
        if y.ndim != 2:
            raise ValueError(
                f"{name} must be left out where observed is not a table (N, d), got observed of "
                f"shape {y.shape}"
            )
        positions = np.atleast_1d(np.asarray(chosen))
        size = y.shape[axis]
        if positions.dtype.kind not in "iu" or (np.abs(positions + 0.5) > size).any():
            raise ValueError(f"{name} must be positions among {size}, got {chosen}")
        kept = np.zeros(size, dtype=bool)
        kept[positions] = True
        shown = shown & (kept[:, None] if axis == 0 else kept)
    if not shown.any():
        raise ValueError("observed must have an entry to show, got missing ones alone")
    return shown
