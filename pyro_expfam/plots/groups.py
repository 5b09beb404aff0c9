"""Labels of rows as colours, with a legend or a colour scale."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import torch

from pyro_expfam.plots.arguments import Array
from pyro_expfam.plots.style import (
    BLUE,
    CATEGORIES,
    GREY,
    NAMES_IN_COLUMN,
    SEQUENCE,
    legend_beside,
    pyplot,
    short_names,
)

MISSING = "missing"

SHORT_NAME = 10
"""Names of up to this length are listed in two columns of a legend."""


class Groups(NamedTuple):
    """Labels of rows.

    Attributes:
        names: the names of groups in order, empty if labels are numbers.
        of_row: the position of each row's name in ``names``, ``(N,)``; -1 for a missing label.
        numbers: labels that are numbers, ``(N,)``, NaN for a missing one; None if they are names.
    """

    names: list[str]
    of_row: Array
    numbers: Array | None

    @property
    def missing(self) -> Array:
        """Which rows have no label, ``(N,)``."""
        return self.of_row < 0


def as_groups(labels: Any, num_rows: int) -> Groups | None:
    """Labels of rows as groups, or None if there are none.

    Floating-point labels are numbers, and all other labels are names. NaN, None and any other
    missing value of a data frame are missing labels.

    Raises:
        ValueError: if there is not one label per row.
    """
    if labels is None:
        return None
    values = _as_values(labels)
    if values.shape != (num_rows,):
        raise ValueError(f"labels must be of shape ({num_rows},), one per row, got {values.shape}")
    missing = np.array([_is_missing(value) for value in values.tolist()], dtype=bool)
    present = values[~missing]
    if present.dtype == object and all(isinstance(value, float) for value in present):
        present = present.astype(np.float64)
    if present.dtype.kind == "f":
        numbers = np.full(num_rows, np.nan)
        numbers[~missing] = present
        missing = ~np.isfinite(numbers)
        return Groups([], np.where(missing, -1, 0), np.where(missing, np.nan, numbers))
    try:
        unique, inverse = _unique(present)
    except TypeError:  # names of several types have no order
        unique, inverse = _unique(np.array([str(value) for value in present]))
    index = np.full(num_rows, -1)
    index[~missing] = inverse
    return Groups([str(name) for name in unique], index, None)


def draw_points(ax: Any, points: Array, groups: Groups | None) -> Array:
    """Draws rows ``(N, 2)`` in the colours of their groups; returns the colours, ``(N, 4)``."""
    colours = colours_of(groups, len(points))
    style = point_style(len(points))
    if groups is None:
        ax.scatter(*points.T, color=colours[:1], zorder=2, **style)
        return colours
    if groups.missing.any():
        ax.scatter(*points[groups.missing].T, zorder=1.5, **{**style, **_HOLLOW})
    # In random order: drawn by group, the last group would cover the others.
    order = np.random.default_rng(0).permutation(np.flatnonzero(~groups.missing))
    if groups.numbers is None:
        ax.scatter(*points[order].T, c=colours[order], zorder=2, **style)
    else:
        numbers = groups.numbers[order]
        drawn = ax.scatter(*points[order].T, c=numbers, cmap=SEQUENCE, zorder=2, **style)
        if len(order):
            ax.figure.colorbar(drawn, ax=ax).solids.set_alpha(1)
    draw_legend(ax, groups)
    return colours


def _unique(values: Array) -> tuple[Array, Array]:
    """Different values in order, numbers in names by their size, and the place of each value."""
    unique, inverse = np.unique(values, return_inverse=True)
    if not all(isinstance(value, str) for value in unique):
        return unique, inverse
    order = np.array(
        sorted(range(len(unique)), key=lambda k: _natural(str(unique[k]))), dtype=np.intp
    )
    return unique[order], np.argsort(order)[inverse]


def _natural(name: str) -> list[str | int]:
    """Text and numbers by turns, which orders "g2" before "g10"."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts


_HOLLOW = {"facecolors": "none", "edgecolors": GREY, "linewidths": 0.7}


def point_style(count: int) -> dict[str, Any]:
    """The style of points: the more there are, the smaller and more transparent they are."""
    return {
        "s": float(np.clip(3000 / count, 4, 20)),
        "alpha": float(np.clip(20 / np.sqrt(count), 0.15, 0.9)),
        "linewidths": 0,
        # As vectors, so many points would be slow to show.
        "rasterized": count > 5000,
    }


def colours_of(groups: Groups | None, num_rows: int) -> Array:
    """The colour of every row, ``(N, 4)``."""
    from matplotlib.colors import Normalize, to_rgba, to_rgba_array

    if groups is None:
        return to_rgba_array([BLUE] * num_rows)
    if groups.numbers is None:
        palette = to_rgba_array([*_palette(len(groups.names)), GREY])
        return palette[groups.of_row]
    low, high = (0, 1)
    if not groups.missing.all():
        low, high = np.nanmin(groups.numbers), np.nanmax(groups.numbers)
    colours = pyplot().get_cmap(SEQUENCE)(Normalize(low, high)(groups.numbers))
    colours[groups.missing] = to_rgba(GREY)
    return colours


def draw_legend(ax: Any, groups: Groups) -> None:
    """A legend of the names; if there are too many, of the largest groups only."""
    if groups.numbers is not None:
        if groups.missing.any():
            ax.scatter([], [], label=MISSING, s=20, **_HOLLOW)
            ax.legend(loc="best", framealpha=0.8, fontsize="small")
        return
    sizes = np.bincount(groups.of_row[~groups.missing], minlength=len(groups.names))
    longest = max(map(len, groups.names), default=0)
    room = NAMES_IN_COLUMN * (2 if longest <= SHORT_NAME else 1)
    shown = np.sort(np.argsort(-sizes, kind="stable")[:room])
    names = short_names(groups.names[position] for position in shown)
    for name, colour in zip(names, _palette(len(groups.names))[shown], strict=True):
        ax.scatter([], [], color=[colour], s=20, label=name)
    if more := len(groups.names) - len(shown):
        ax.scatter([], [], color="none", label=f"and {more} more")
    if groups.missing.any():
        ax.scatter([], [], label=MISSING, s=20, **_HOLLOW)
    legend_beside(ax)


def _palette(size: int) -> Array:
    from matplotlib.colors import to_rgba_array

    if size <= len(CATEGORIES):
        return to_rgba_array(CATEGORIES[:size])
    colours: Array = pyplot().get_cmap(SEQUENCE)(np.linspace(0, 0.95, size))
    return colours


def _as_values(labels: Any) -> Array:
    if isinstance(labels, torch.Tensor):
        return labels.detach().cpu().numpy()
    # Nullable integers of pandas would become floating-point numbers.
    is_extended = not isinstance(getattr(labels, "dtype", np.dtype(object)), np.dtype)
    return np.asarray(labels, dtype=object if is_extended else None)


def _is_missing(value: Any) -> bool:
    """Whether a value is None, or is not equal to itself, as NaN is."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA is neither equal nor unequal to anything
        return True
