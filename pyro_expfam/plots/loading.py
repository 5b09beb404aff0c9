"""Loadings of a latent with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level, as_position, as_shape
from pyro_expfam.plots.containers import centred_loading, variable_of
from pyro_expfam.plots.style import BLUE, GREY, axes_or_new, set_title, short_names

TALLEST = 12.0
"""The largest height of a new figure, in inches."""

SMALLEST, LARGEST = 5.5, 9.0
"""The range of sizes for the names of features, in points."""

UNSURE = "0.55"
"""The colour of intervals that contain zero."""


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

    Features are sorted by the size of their loading, the largest on top. Intervals are
    equal-tailed, between quantiles of draws or of a normal. For draws the point is the median.
    Intervals that contain zero are grey. Loadings of categories from a container are relative to
    the mean over the levels of their column, since only differences between levels mean anything.

    Args:
        loading: a container of ArviZ, from :func:`~pyro_expfam.align`; or aligned draws,
            ``(..., d, l)``; or a point estimate, ``(d, l)``.
        sd: standard deviations of a point estimate, ``(d, l)``; without them there are no
            intervals.
        latent: which latent, numbered from 0.
        names: names of the features; by default the labels of the container, or positions.
        num_features: the largest number of features to show.
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
        loading = centred_loading(array)
    estimate = _estimate(as_array("loading", loading), sd, latent, as_level(level))
    labels = feature_names(names, len(estimate.centre))
    if num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")

    largest = np.argsort(-np.abs(estimate.centre), kind="stable")[:num_features]
    ax = axes_or_new(ax, figsize=(4.8, min(1.0 + 0.22 * len(largest), TALLEST)))
    places = np.arange(len(largest))
    colours = np.array([BLUE] * len(largest), dtype=object)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    if estimate.low is not None and estimate.high is not None:
        low, high = estimate.low[largest], estimate.high[largest]
        colours[(low <= 0) & (high >= 0)] = UNSURE
        ax.hlines(places, low, high, color=colours, linewidth=2)
    ax.scatter(estimate.centre[largest], places, color=colours, s=20, zorder=3)
    _label_places(ax, short_names(labels[feature] for feature in largest))
    position = as_position("latent", latent, estimate.latent_dim)
    ax.set_xlabel(f"loading of latent {position}")
    whole = len(largest) == len(labels)
    title = "Loadings" if whole else f"{len(largest)} largest of {len(labels):,} loadings"
    set_title(ax, title if estimate.low is None else f"{title}, with {level:.0%} intervals")
    return ax


def _label_places(ax: Any, names: list[str]) -> None:
    """Labels places from top to bottom, in a size that fits, or only every few of them."""
    height = 72 * ax.get_position().height * ax.figure.get_figheight() / len(names)
    size = float(np.clip(0.8 * height, SMALLEST, LARGEST))
    step = math.ceil(1.1 * size / height)
    ax.set_yticks(np.arange(0, len(names), step), names[::step], fontsize=size)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)


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
            raise ValueError("sd must be left out if loading has draws, got both")
        draws = values.reshape(-1, values.shape[-1])
        if (draws == draws[0]).all():  # a point estimate, which all draws share
            return _Estimate(draws[0], None, None, loading.shape[-1])
        low, centre, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
        return _Estimate(centre, low, high, loading.shape[-1])
    if sd is None:
        return _Estimate(values, None, None, loading.shape[-1])
    reach = NormalDist().inv_cdf((1 + level) / 2) * as_shape("sd", sd, loading.shape)[:, column]
    return _Estimate(values, values - reach, values + reach, loading.shape[-1])


def feature_names(names: Sequence[Any] | None, num_features: int) -> list[str]:
    """The names of features as text, by default their positions."""
    if names is None:
        return [str(feature) for feature in range(num_features)]
    if len(names) != num_features:
        raise ValueError(f"names must be one for each of {num_features} features, got {len(names)}")
    return [str(name) for name in names]
