"""Observations against posterior predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.plots.arguments import Array, as_array, as_level
from pyro_expfam.plots.containers import kinds_of, levels_of, variable_of
from pyro_expfam.plots.coverage import SHORTFALL, binomial_band, falls_short
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, axes_or_new, set_title

MOST_POINTS = 2000
"""More entries than this are drawn as a density, with at most this many misses as points."""

LARGE_COUNT = 20
"""Counts up to this number have linear axes."""

NARROW = 10.0
"""So have counts of which the largest is less than this multiple of the smallest. A logarithmic
axis would begin far below all of them."""

BINS = 10
"""Bins of predicted probabilities."""

OFF = 0.05
"""Predicted probabilities are misleading if they are off by this much in the mean."""

FARTHEST = 30.0
"""Axes of large counts end at the largest observation, or at the 99% quantile of predictive means
if it is larger, and at this multiple of the largest observation at most."""

DECADES = 6
"""The largest number of ticks of a logarithmic axis."""

CELLS = 60
"""Cells of a density along each axis."""


def plot_reconstruction(
    observed: Any,
    predictive: Any = None,
    rows: Sequence[int] | None = None,
    features: Sequence[Any] | None = None,
    level: float = 0.9,
    variable: str = "y",
    levels: int | None = None,
    ax: Any = None,
) -> Any:
    """Observations against posterior predictions, with predictive intervals.

    Numbers and counts: a point per entry shows its predictive mean and its observation, and a bar
    the interval between quantiles of its draws. Points are blue inside their interval and
    vermillion outside. Among more than 2,000 entries, the entries inside are drawn as a density,
    without bars, and at most 2,000 entries outside as points. Counts above 20 have logarithmic axes
    that are linear below 1. The title counts the entries inside.

    A discrete observation equals many of its draws. Its rank among them is therefore taken at
    random (Czado, Gneiting and Held, *Predictive model assessment for count data*, 2009), the same
    in every picture of a table, as in :func:`~pyro_expfam.check`. An observation at an end of its
    bar may then be inside or outside, and the share inside is ``level`` if the model is right.

    Bits, which are 0 and 1, or -1 and 1: entries are sorted into ten bins by their predicted
    probability of a one. A point per bin shows the mean of these probabilities and the observed
    share of ones. The grey bar contains the share with probability ``level`` under the model.
    Points outside are vermillion.

    Categories are drawn as bits, one for each level of each entry: whether the entry has this
    level. A mixed table has a picture for each kind of column, in which columns of real numbers are
    standardised.

    The title is red if coverage fails. For numbers and counts this means that the share of entries
    inside is more than three points below ``level``, and by more than chance. For bits it means
    that more bins are outside than by chance, and predicted probabilities are off by more than five
    points on average.

    Args:
        observed: a container of ArviZ, from :func:`~pyro_expfam.to_arviz`; or observations,
            ``(N, d)``, with NaN for a missing entry.
        predictive: posterior predictive draws, ``(..., N, d)``, of observations that are not in a
            container.
        rows: the rows to show, numbered from 0; by default all.
        features: the features to show, numbered from 0, or by their names in the container; by
            default all.
        level: probability of an interval.
        variable: the observed variable of the container.
        levels: the number of levels of categories, which are numbers from 0; by default as the
            container says, and none for arrays.
        ax: axes to draw on.

    Returns:
        The axes; for a mixed table an array of axes, one for each kind.

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
        array = variable_of(observed, "observed_data", variable)
        features = _places_of_names(array, features)
        kinds = kinds_of(array)
        shown_kinds = [] if kinds is None else kinds[_chosen(features, len(kinds))].tolist()
        if kinds is not None and len(set(shown_kinds)) > 1:
            chosen = _chosen(features, len(kinds))
            groups = {
                kind: [int(k) for k in chosen if kinds[k] == kind]
                for kind in dict.fromkeys(shown_kinds)
            }
            return _by_kind(observed, groups, rows, level, variable, ax)
        of_columns = levels_of(array)
        if levels is None and of_columns is not None:
            first = 0 if len(of_columns) == 1 else _chosen(features, len(of_columns))[0]
            levels = int(of_columns[first])
        observed = array.values
    elif predictive is None:
        raise TypeError(
            "predictive must be posterior predictive draws if observed is not a container of "
            f"ArviZ, got observed of type {type(observed).__name__} alone"
        )
    y, draws = as_array("observed", observed), as_array("predictive", predictive)
    if y.size == 0 or draws.ndim <= y.ndim or draws.shape[draws.ndim - y.ndim :] != y.shape:
        wanted = ", ".join(map(str, ("...", *y.shape)))
        raise ValueError(
            f"predictive must be draws of shape ({wanted}) for observed of shape {y.shape}, not "
            f"empty, got {draws.shape}"
        )
    as_level(level)
    shown = _selection(y, rows, features)
    value, samples = y[shown], draws.reshape(-1, *y.shape)[:, shown]
    ax = axes_or_new(ax, figsize=(5.0, 4.0))
    if levels is not None and levels > 1:
        numbers = np.arange(levels)[:, None]
        has_level = (value == numbers).ravel()
        probability = np.concatenate([(samples == k).mean(0) for k in range(levels)])
        _draw_bins(ax, has_level, probability, level, "level", "levels")
    elif _are_bits(value) and _are_bits(samples):
        _draw_bins(ax, value == 1, (samples == 1).mean(0), level, "one", "ones")
    else:
        _draw_entries(ax, value, samples, level)
    return ax


def _by_kind(
    container: Any,
    groups: dict[str, list[int]],
    rows: Sequence[int] | None,
    level: float,
    variable: str,
    ax: Any,
) -> Any:
    """A picture for the columns of each kind, side by side."""
    if ax is not None:
        raise ValueError(
            f"ax must be left out for columns of several kinds, {', '.join(groups)}, which have a "
            "picture each: take features of one kind"
        )
    import matplotlib.pyplot as plt

    size = (4.6 * len(groups), 4.2)
    _, axes = plt.subplots(1, len(groups), figsize=size, layout="constrained")
    for axis, (kind, places) in zip(axes, groups.items(), strict=True):
        y = variable_of(container, "observed_data", variable).values[..., places]
        name = kind.replace("_", " ")
        if len(places) > 1 and not _are_whole(y[~np.isnan(y)]):
            # Columns of real numbers have units of their own.
            draws = variable_of(container, "posterior_predictive", variable).values[..., places]
            centre, scale = np.nanmean(y, 0), np.nanstd(y, 0) + np.finfo(y.dtype).tiny
            standard = (y - centre) / scale, (draws - centre) / scale
            plot_reconstruction(*standard, rows, None, level, ax=axis)
            axis.set_xlabel(f"{axis.get_xlabel()}, in sd of its column")
        else:
            plot_reconstruction(container, None, rows, places, level, variable, ax=axis)
        axis.set_ylabel(f"{name}: {axis.get_ylabel()}")
    return axes


def _places_of_names(array: Any, features: Sequence[Any] | None) -> Sequence[Any] | None:
    """Positions of features that may be given by their names in a container."""
    if features is None or not any(isinstance(name, str) for name in features):
        return features
    names = [str(name) for name in array.coords[array.dims[-1]].values]
    unknown = [name for name in features if str(name) not in names]
    if unknown:
        raise ValueError(f"features must be among {names}, got {unknown}")
    return [names.index(str(name)) for name in features]


def _chosen(features: Sequence[int] | None, size: int) -> Array:
    return np.arange(size) if features is None else np.asarray(features)


def _selection(y: Array, rows: Any, features: Any) -> Array:
    """Which entries to show."""
    shown = ~np.isnan(y)
    for name, chosen, axis in (("rows", rows, 0), ("features", features, 1)):
        if chosen is None:
            continue
        if y.ndim != 2:
            raise ValueError(
                f"{name} must be left out if observed is not a table (N, d), got observed of "
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


def _are_bits(values: Array) -> bool:
    ends = values.min(), values.max()
    return ends[1] == 1 and ends[0] in (-1, 0, 1) and bool(np.isin(values, ends).all())


def _draw_bins(
    ax: Any, one: Array, probability: Array, level: float, event: str, events: str
) -> None:
    """Draws the shares of events ``(N,)`` in bins of their predicted probabilities."""
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    size = np.bincount(which, minlength=BINS)
    filled = size > 0
    size = size[filled]
    share = np.bincount(which, one, BINS)[filled] / size
    predicted = np.bincount(which, probability, BINS)[filled] / size
    low, high = (band / size for band in binomial_band(size, predicted, level))
    inside = (low <= share) & (share <= high)
    off = float(np.average(np.abs(share - predicted), weights=size))

    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    colours = np.where(inside, BLUE, VERMILLION)
    ax.vlines(predicted, low, high, color=GREY, linewidth=5, alpha=0.6, zorder=1)
    ax.scatter(predicted, share, color=colours, s=28, zorder=2)
    top, bottom = np.maximum(high, share), np.minimum(low, share)
    for x, over, under, entries in zip(predicted, top, bottom, size, strict=True):
        # Above the bar and the point if there is room, and below them otherwise.
        above = x < 0.75
        ax.annotate(
            f"{entries:,}",
            (x, over if above else under),
            (4, 5) if above else (-4, -5),
            textcoords="offset points",
            fontsize="x-small",
            color="0.35",
            ha="right" if above else "left",
            va="bottom" if above else "top",
        )
    ax.set(xlabel=f"predicted probability of a {event}", ylabel=f"observed share of {events}")
    ax.set(xlim=(-0.1, 1.08), ylim=(-0.1, 1.1))
    failed = off > OFF and falls_short(int(inside.sum()), len(size), level)
    count = (
        f"{inside.sum()} of {len(size)} shares of {events} are where the model says "
        f"({level:.0%} bars)"
    )
    set_title(ax, f"{count}\nmean difference from predictions: {100 * off:.1f} points", failed)


def _draw_entries(ax: Any, value: Array, samples: Array, level: float) -> None:
    """Draws observations ``(N,)`` against the means of their draws ``(S, N)``."""
    low, high = _interval(samples, level)
    mean, inside = samples.mean(0), _are_inside(value, samples, level)
    is_count = value.min() >= 0 and _are_whole(value)
    ends = np.array([min(mean.min(), value.min()), max(mean.max(), value.max())])
    is_large = is_count and ends[1] > LARGE_COUNT and ends[1] >= NARROW * ends[0]
    if is_large:
        most = min(np.quantile(mean, 0.99), FARTHEST * value.max())
        ends[1] = min(ends[1], max(value.max(), most, LARGE_COUNT))
        _set_logarithmic(ax, ends[1])
    ax.plot(ends, ends, color=GREY, linewidth=0.9, linestyle="--", zorder=3)
    if value.size <= MOST_POINTS:
        opacity = float(np.clip(60 / value.size, 0.05, 0.45))
        ax.vlines(mean, low, high, color=BLUE, alpha=opacity, linewidth=1.5, zorder=1)
        points = {"s": float(np.clip(3000 / value.size, 4, 16)), "linewidths": 0, "zorder": 2}
        ax.scatter(mean[inside], value[inside], color=BLUE, **points)
        ax.scatter(mean[~inside], value[~inside], color=VERMILLION, **points)
    else:
        _draw_density(ax, mean[inside], value[inside], ends)
        some = np.random.default_rng(0).permutation(np.flatnonzero(~inside))[:MOST_POINTS]
        points = {"s": 4, "alpha": 0.5, "linewidths": 0, "zorder": 2, "rasterized": True}
        ax.scatter(mean[some], value[some], color=VERMILLION, **points)
    beyond = int((mean > ax.get_xlim()[1]).sum()) if is_large else 0
    note = f" ({beyond:,} beyond the axis)" if beyond else ""
    ax.set(xlabel=f"posterior predictive mean{note}", ylabel="observed")
    # A count, since a share rounded to 100% would hide the few entries outside.
    count = f"{inside.sum():,} of {value.size:,} entries in {level:.0%} intervals"
    share = f" ({inside.mean():.0%})" if 0.005 < inside.mean() < 0.995 else ""
    failed = falls_short(int(inside.sum()), value.size, level, SHORTFALL)
    set_title(ax, f"{count}{share}", failed)


def _interval(samples: Array, level: float) -> Array:
    """The ends of central intervals ``(2, N)`` of draws ``(S, N)``.

    A further draw is inside with probability ``level``, however few draws there are.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends: Array = np.quantile(samples, tails, axis=0, method="weibull")
    return ends


def _are_inside(value: Array, samples: Array, level: float) -> Array:
    """Which observations ``(N,)`` are inside the central interval of their draws ``(S, N)``.

    Discrete observations are inside by their randomised rank among the draws, which is uniform if
    they have the law of the draws.
    """
    if not (_are_whole(value) and _are_whole(samples)):
        low, high = _interval(samples, level)
        return (low <= value) & (value <= high)
    below, equal = (samples < value).sum(0), (samples == value).sum(0)
    uniform = np.random.default_rng(0).random(value.shape)
    rank = (below + uniform * (equal + 1)) / (len(samples) + 1)
    return np.abs(rank - 0.5) <= level / 2


def _are_whole(values: Array) -> bool:
    return bool((values == np.round(values)).all())


def _set_logarithmic(ax: Any, largest: float) -> None:
    """Gives axes of counts a logarithmic scale, linear below 1, up to the largest."""
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(numticks=DECADES)
    ax.set(xlim=(-0.3, 1.5 * largest), ylim=(-0.3, 1.5 * largest))


def _draw_density(ax: Any, mean: Array, value: Array, ends: Array) -> None:
    """Draws the density of entries, on a logarithmic scale of colours."""
    from matplotlib.colors import LogNorm

    # Cells have equal size in the picture, on any scale of its axes.
    scale = ax.xaxis.get_transform()
    low, high = scale.transform(ends)
    margin = 0.02 * (high - low)
    edges = scale.inverted().transform(np.linspace(low - margin, high + margin, CELLS + 1))
    entries, _, _ = np.histogram2d(mean, value, [edges, edges])
    if entries.any():
        norm = LogNorm(1, max(entries.max(), 2))
        shown = np.ma.masked_equal(entries.T, 0)
        drawn = ax.pcolormesh(edges, edges, shown, norm=norm, cmap="Blues", rasterized=True)
        ax.figure.colorbar(drawn, ax=ax, label="entries inside")
