"""Loadings of a latent with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level, as_position, as_shape
from pyro_expfam.plots.containers import variable_of
from pyro_expfam.plots.style import BLUE, GREY, axes_or_new


def plot_loading(
    loading: Any,
    sd: Any = None,
    latent: int = 0,
    names: Sequence[Any] | None = None,
    num_features: int = 20,
    level: float = 0.9,
    variable: str = "loading",
    ax: Any = None,
) -> Any:
    """The largest loadings of a latent, each with the interval that holds a given probability.

    Features are in the order of the size of their loading, the largest on top. The intervals
    leave the same probability on both sides: between quantiles of draws, around their median, or
    those of a normal.

    Args:
        loading: a container of ArviZ, from :func:`~pyro_expfam.align`; or draws that
            are aligned, ``(..., d, l)``; or a point estimate, ``(d, l)``.
        sd: standard deviations of a point estimate, ``(d, l)``; without them there are no
            intervals.
        latent: which latent.
        names: names of the features; by default the labels of the container, or positions.
        num_features: how many features to show at most.
        level: probability of an interval.
        variable: the variable of the container.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if a shape, level, position or name does not fit; the message names the
            argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W = torch.tensor([[0.1, 1.0], [-2.0, 0.3], [0.7, 0.2]])
        >>> ax = pef.plots.plot_loading(W, sd=0.1 * torch.ones(3, 2), names=["a", "b", "c"])
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['b', 'c', 'a']
    """
    if is_container(loading):
        array = variable_of(loading, "posterior", variable)
        names = list(array[array.dims[-2]].values) if names is None else names
        loading = array.values
    estimate = _estimate(as_array("loading", loading), sd, latent, as_level(level))
    labels = _names(names, len(estimate.centre))
    if num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")

    largest = np.argsort(-np.abs(estimate.centre), kind="stable")[:num_features]
    ax = axes_or_new(ax, figsize=(4.5, 1.0 + 0.22 * len(largest)))
    places = np.arange(len(largest))
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    if estimate.low is not None and estimate.high is not None:
        ax.hlines(places, estimate.low[largest], estimate.high[largest], color=BLUE, linewidth=2)
    ax.plot(estimate.centre[largest], places, "o", color=BLUE, markersize=4.5)
    ax.set_yticks(places, [labels[feature] for feature in largest])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(largest) - 0.5, -0.5)
    position = as_position("latent", latent, estimate.latent_dim)
    ax.set(xlabel=f"loading of latent {position + 1}", ylabel="feature")
    ax.set_title("Loadings" if estimate.low is None else f"Loadings, with {level:.0%} intervals")
    return ax


class _Estimate(NamedTuple):
    """The loadings of a latent ``(d,)``, with the ends of their intervals."""

    centre: Array
    low: Array | None
    high: Array | None
    latent_dim: int


def _estimate(loading: Array, sd: Any, latent: int, level: float) -> _Estimate:
    if loading.ndim < 2 or loading.size == 0:
        raise ValueError(f"loading must be of shape (..., d, l), not empty, got {loading.shape}")
    column = as_position("latent", latent, loading.shape[-1])
    values = loading[..., column]
    if loading.ndim > 2:
        if sd is not None:
            raise ValueError("sd must be left out where loading has draws, got both")
        draws = values.reshape(-1, values.shape[-1])
        low, centre, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
        return _Estimate(centre, low, high, loading.shape[-1])
    if sd is None:
        return _Estimate(values, None, None, loading.shape[-1])
    reach = NormalDist().inv_cdf((1 + level) / 2) * as_shape("sd", sd, loading.shape)[:, column]
    return _Estimate(values, values - reach, values + reach, loading.shape[-1])


def _names(names: Sequence[Any] | None, num_features: int) -> list[str]:
    if names is None:
        return [str(feature) for feature in range(num_features)]
    if len(names) != num_features:
        raise ValueError(f"names must be one for each of {num_features} features, got {len(names)}")
    return [str(name) for name in names]
