"""A strip: a single number per row with its uncertainty."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array
from pyro_expfam.plots.groups import MISSING, Groups, colours_of, point_style
from pyro_expfam.plots.style import GREY, short


def draw_strip(
    ax: Any, values: Array, sd: Array | None, groups: Groups | None, level: float
) -> None:
    """Draws values ``(N,)`` along the horizontal axis, with intervals of a given probability.

    Without labels, rows are in order of their values. Rows with names as labels are arranged by
    group, and rows with numbers as labels at the height of their number.
    """
    places = _places(ax, values, groups)
    colours = colours_of(groups, len(values))
    if sd is not None:
        reach = NormalDist().inv_cdf((1 + level) / 2) * sd
        opacity = float(np.clip(30 / len(values), 0.03, 0.6))
        ends = values - reach, values + reach
        ax.hlines(places, *ends, colors=colours, alpha=opacity, linewidth=1.2, zorder=1)
    ax.scatter(values, places, c=colours, zorder=2, **point_style(len(values)))


def _places(ax: Any, values: Array, groups: Groups | None) -> Array:
    """The height of every row; labels the vertical axis accordingly."""
    if groups is None:
        places = np.empty(len(values))
        places[np.argsort(values, kind="stable")] = np.arange(len(values))
        ax.set_ylabel("rows in order")
        ax.yaxis.get_major_locator().set_params(integer=True)
        return places
    if groups.numbers is not None:
        return _number_places(ax, groups.numbers)
    names = [*map(short, groups.names), *([MISSING] if groups.missing.any() else [])]
    index = np.where(groups.missing, len(groups.names), groups.of_row)
    # Fractions of multiples of the golden ratio are evenly spread within each group.
    within = np.empty(len(values))
    for group in range(len(names)):
        rows = np.flatnonzero(index == group)
        within[rows] = np.arange(len(rows)) * 0.6180339887498949 % 1
    ax.set_yticks(np.arange(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)
    return index + 0.7 * (within - 0.5)


def _number_places(ax: Any, numbers: Array) -> Array:
    """The numbers; rows without one are below the others, under a line."""
    ax.set_ylabel("label")
    missing = np.isnan(numbers)
    if not missing.any():
        return numbers
    low, high = (0.0, 1.0) if missing.all() else (np.nanmin(numbers), np.nanmax(numbers))
    height = low - 0.12 * ((high - low) or 1.0)
    ax.axhline((low + height) / 2, color=GREY, linewidth=0.8, linestyle="--")
    ax.text(
        1, height, f" {MISSING}", transform=ax.get_yaxis_transform(), va="center", fontsize="small"
    )
    return np.where(missing, height, numbers)
