"""Each column of a table against its posterior predictions: what was seen, and what ranks say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array, as_level
from pyro_expfam.plots.containers import categories_of, variable_of
from pyro_expfam.plots.coverage import binomial_band
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, pyplot, short_names

MOST_VALUES = 25
"""Columns of at most so many whole numbers have a bar per number."""

BINS = 20
"""Bins of other columns, and of ranks at most."""

ROWS_PER_BIN = 15
"""The least expected number of rows in a bin of ranks."""


def plot_columns(
    container: Any,
    columns: Sequence[int] | None = None,
    num_columns: int = 12,
    level: float = 0.9,
    variable: str = "y",
) -> Any:
    """The values of each column, beside the values of tables drawn from the posterior predictive.

    Bars are the observed shares of rows. The line is the mean share among drawn tables, and the
    band holds the share of a drawn table with probability ``level``. Large counts and real numbers
    are put into bins between quantiles. Named categories of a data frame have their names. Missing
    entries, and columns without any entry, are left out.

    Args:
        container: a container of ArviZ, from :func:`~pyro_expfam.to_arviz`.
        columns: the columns to show, numbered from 0; by default those whose shares are farthest
            from the predicted ones.
        num_columns: the largest number of columns to show.
        level: probability of the band.
        variable: the observed variable of the container.

    Returns:
        The figure.

    Raises:
        ValueError: if the container has no posterior predictive draws, or an argument does not fit.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((50, 3), 2.0))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), 3, latent_dim=1)
        >>> guide = pef.LaplaceGuide(model)
        >>> _ = guide.fit(y)
        >>> figure = pef.plots.plot_columns(pef.to_arviz(model, guide, y, num_samples=50))
        >>> len(figure.axes)
        3
    """
    as_level(level)
    y, draws, names = _table(container, variable)
    levels = categories_of(variable_of(container, "observed_data", variable))
    shares = {k: _shares(y[:, k], draws[..., k], levels[k]) for k in _with_entries(y)}
    misfit = {k: _misfit(x) for k, x in shares.items()}
    chosen = _chosen(columns, num_columns, misfit, y.shape[1])
    figure, axes = _grid(len(chosen))
    for ax, column in zip(axes, chosen, strict=True):
        labels, observed, drawn = shares[column]
        at = np.arange(len(labels))
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        outside = (observed < low) | (observed > high)
        ax.bar(at, observed, color=np.where(outside, VERMILLION, BLUE), alpha=0.55, width=0.9)
        ax.fill_between(at, low, high, step="mid", color=GREY, alpha=0.5, linewidth=0)
        ax.step(at, drawn.mean(0), where="mid", color="black", linewidth=1)
        if levels[column]:
            _named_ticks(ax, labels)
        else:
            _few_ticks(ax, labels)
        ax.set_title(names[column], fontsize="medium")
    figure.supxlabel("value", fontsize="medium")
    figure.supylabel("share of rows", fontsize="medium")
    return figure


def plot_residuals(
    container: Any,
    columns: Sequence[int] | None = None,
    num_columns: int = 12,
    level: float = 0.99,
    variable: str = "y",
) -> Any:
    """The ranks of the observations of each column among their posterior predictive draws.

    Under the right model ranks are uniform, and a bar ends in the grey band with probability
    ``level``. Ranks that pile up at both ends show a column that varies more than the model says,
    and ranks that pile up in the middle a column that varies less. Ranks of discrete observations
    that equal several draws are taken at random between them. The latents of a row are found from
    the same observations, so that ranks of tables of few columns crowd towards the middle a
    little. Columns without any entry are left out.

    Args:
        container: a container of ArviZ, from :func:`~pyro_expfam.to_arviz`.
        columns: the columns to show, numbered from 0; by default those farthest from uniform.
        num_columns: the largest number of columns to show.
        level: probability of the band.
        variable: the observed variable of the container.

    Returns:
        The figure.

    Raises:
        ValueError: if the container has no posterior predictive draws, or an argument does not fit.
        ModuleNotFoundError: if matplotlib is not installed.

    Source: Dunn and Smyth (1996), *Randomized quantile residuals*.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.full((50, 3), 2.0))
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), 3, latent_dim=1)
        >>> guide = pef.LaplaceGuide(model)
        >>> _ = guide.fit(y)
        >>> figure = pef.plots.plot_residuals(pef.to_arviz(model, guide, y, num_samples=50))
        >>> len(figure.axes)
        3
    """
    as_level(level)
    y, draws, names = _table(container, variable)
    random = np.random.default_rng(0)
    ranks = {k: _ranks(y[:, k], draws[..., k], random) for k in _with_entries(y)}
    bins = int(np.clip(min(map(len, ranks.values())) // ROWS_PER_BIN, 4, BINS))
    counts = {k: np.histogram(x, bins, (0, 1))[0] for k, x in ranks.items()}
    distance = {k: float(((x - x.mean()) ** 2).sum() / max(x.mean(), 1)) for k, x in counts.items()}
    chosen = _chosen(columns, num_columns, distance, y.shape[1])
    figure, axes = _grid(len(chosen))
    for ax, column in zip(axes, chosen, strict=True):
        low, high = binomial_band(len(ranks[column]), 1 / bins, level)
        outside = (counts[column] < low) | (counts[column] > high)
        at = (np.arange(bins) + 0.5) / bins
        ax.axhspan(low, high, color=GREY, alpha=0.35, linewidth=0)
        ax.bar(at, counts[column], 0.9 / bins, color=np.where(outside, VERMILLION, BLUE))
        ax.set_title(names[column], fontsize="medium")
    figure.supxlabel("rank of the observation among its draws", fontsize="medium")
    figure.supylabel("rows", fontsize="medium")
    return figure


def _table(container: Any, variable: str) -> tuple[Array, Array, list[str]]:
    """The observations, their draws ``(S, N, d)`` and the names of the columns."""
    array = variable_of(container, "observed_data", variable)
    drawn = variable_of(container, "posterior_predictive", variable).values
    y = array.values.astype(float)
    names = short_names([str(x) for x in array[array.dims[-1]].values])
    return y, drawn.reshape(-1, *y.shape).astype(float), names


Shares = tuple[list[str], Array, Array]
"""The names of bins, the observed share in each, and the shares of drawn tables, ``(S, bins)``."""


def _shares(y: Array, draws: Array, names: Sequence[str] | None = None) -> Shares:
    """What is seen and drawn of a column, whose numbers may be places of names of categories."""
    there = ~np.isnan(y)
    y, draws = y[there], draws[:, there]
    is_whole = bool((y == np.round(y)).all()) and bool((draws == np.round(draws)).all())
    if is_whole and y.size and (names or np.ptp(y) < MOST_VALUES):
        first, last = (0, len(names) - 1) if names else (y.min(), y.max())
        edges = np.arange(first, last + 2) - 0.5
        edges[0], edges[-1] = -np.inf, np.inf
        labels = list(names or [f"{x:g}" for x in np.arange(first, last + 1)])
    else:
        inner = _inner_edges(y, is_whole)
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        labels = [_short(x) for x in [y.min(), *inner]]
    places = np.arange(len(edges) - 1)
    observed = (np.searchsorted(edges, y, "right") - 1)[None] == places[:, None]
    index = np.searchsorted(edges, draws, "right") - 1
    drawn = np.stack([(index == place).mean(1) for place in places], 1)
    return labels, observed.mean(1), drawn


def _inner_edges(y: Array, is_whole: bool) -> Array:
    """Where bins of about equal shares begin, without the first, which has the least value."""
    quantiles = np.quantile(y, np.linspace(0, 1, BINS + 1)[1:-1])
    edges = np.unique(np.ceil(quantiles) if is_whole else quantiles)
    above = edges[edges > y.min()]
    # A column of one value is compared with draws below it.
    return above if above.size else edges


def _short(number: float) -> str:
    """Three digits of a number, below a million without a power of ten."""
    return f"{float(f'{number:.3g}'):,g}"


def _misfit(shares: Shares) -> float:
    _, observed, drawn = shares
    spread = np.maximum(drawn.std(0), 1e-3)
    return float((np.abs(observed - drawn.mean(0)) / spread).max())


def _ranks(y: Array, draws: Array, random: np.random.Generator) -> Array:
    """Ranks between 0 and 1 of the entries that are there, at random among equals."""
    there = ~np.isnan(y)
    below = (draws[:, there] < y[there]).sum(0)
    equal = (draws[:, there] == y[there]).sum(0)
    return (below + random.uniform(size=below.shape) * (equal + 1)) / (len(draws) + 1)


def _with_entries(y: Array) -> list[int]:
    """The columns that are not missing in every row."""
    return [int(k) for k in np.flatnonzero(~np.isnan(y).all(0))]


def _chosen(
    columns: Sequence[int] | None, most: int, misfit: dict[int, float], count: int
) -> list[int]:
    if columns is None:
        places = list(misfit)
        return [places[k] for k in np.argsort(list(misfit.values()))[::-1][:most]]
    for column in columns:
        if not 0 <= column < count:
            raise ValueError(f"columns must be from 0 to {count - 1}, got {column}")
        if column not in misfit:
            raise ValueError(f"columns must have entries, got {column}, missing in every row")
    return list(columns)


def _grid(count: int) -> tuple[Any, list[Any]]:
    across = min(4, count)
    down = math.ceil(count / across)
    figure, axes = pyplot().subplots(
        down, across, figsize=(2.6 * across, 2.1 * down + 0.3), layout="constrained", squeeze=False
    )
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="small")
    return figure, list(axes.flat[:count])


MOST_TICKS = 6

WIDE = 24
"""Letters of names that fit side by side under a panel."""


def _few_ticks(ax: Any, labels: list[str]) -> None:
    step = math.ceil(len(labels) / MOST_TICKS)
    ax.set_xticks(range(0, len(labels), step), labels[::step])


def _named_ticks(ax: Any, labels: list[str]) -> None:
    """A tick for each category, with names that do not overlap."""
    ax.set_xticks(range(len(labels)), short_names(labels))
    if len(labels) * max(map(len, labels)) > WIDE:
        ax.tick_params(axis="x", labelrotation=90)
