"""The Pareto diagnostic of importance sampling."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.evidence.importance import KHAT_DRAWS
from pyro_expfam.plots.arguments import Array, as_array
from pyro_expfam.plots.containers import variable_of
from pyro_expfam.plots.name_places import place_names
from pyro_expfam.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    axes_or_new,
    set_title,
    short_names,
)

GOOD, HIGH = 0.5, 0.7
"""Weights have a finite variance up to the first; estimates are unreliable beyond the second."""

NAMED = 5
"""The largest number of rows above the threshold that are named."""

ALL_EXACT = "exact: importance weights do not vary"
"""What a picture says if all shapes are minus infinity."""


def plot_khat(
    khat: Any, num_draws: int | None = None, variable: str = "khat", ax: Any = None
) -> Any:
    r"""The Pareto shape of the importance weights of each row, with its thresholds.

    A fit has two such diagnostics, and the title names the one that is drawn:

    - *Laplace posterior*, from a container: whether the normal over the latents of each row is near
      their posterior, with loading and intercept fixed. The weights turn the normal into the
      posterior.
    - *Leaving out*, from ``az.loo``: whether the posterior without a row or an entry is near the
      posterior with it. The weights turn the posterior given all data into the posterior without
      the row. With ``var_name="y_marginal"`` latents are integrated out. A large value shows that a
      row matters to loading and intercept and that the estimate of ``az.loo`` is unreliable. It
      shows nothing about the posterior of the latents.

    Estimates by importance sampling are reliable for :math:`\hat k \le 0.7`. For few draws
    :math:`S` the threshold is lower, :math:`\hat k \le 1 - 1 / \log_{10} S` (Vehtari, Simpson,
    Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, 2024). Larger values are drawn as
    triangles, with infinite ones at the upper edge. Rows with constant weights have a shape of
    minus infinity, and are drawn at the lower edge; if all have, as for a Gaussian table, the
    picture says that the posterior is exact. The largest are named, if a container has
    names.

    Args:
        khat: a container of ArviZ, from :func:`~pyro_expfam.to_arviz` with a
            :class:`~pyro_expfam.LaplaceGuide`, for the shapes of the latents' posteriors; or the
            result of ``az.loo`` with ``pointwise=True``; or shapes per row, ``(N,)``, or per entry,
            ``(N, d)``.
        num_draws: the number of draws, which sets the threshold; by default taken from the
            container or from ``az.loo``. For an array the default thresholds are 0.5 and 0.7.
        variable: the variable of the container, in its group ``sample_stats``.
        ax: axes to draw on.

    Returns:
        The axes. The title counts the values that are too large, in red if there are any.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if ``khat`` is empty or has missing values, or ``num_draws`` is not above 10;
            if the container has no such variable.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import pyro_expfam as pef
        >>> ax = pef.plots.plot_khat([0.1, 0.3, 0.9, 0.2])
        >>> ax.get_title()
        '1 of 4 rows above 0.7'
    """
    shapes = _shapes(khat, variable)
    values = shapes.values
    if values.ndim == 0 or values.size == 0 or np.isnan(values).any():
        raise ValueError(
            f"khat must be numbers per row, none of them missing, got shape {values.shape} with "
            f"{np.isnan(values).sum()} missing"
        )
    thresholds = _thresholds(shapes.num_draws if num_draws is None else num_draws)
    flat = values.ravel()

    ax = axes_or_new(ax)
    _draw_thresholds(ax, thresholds)
    too_large = flat > thresholds[-1]
    _draw_shapes(ax, flat, too_large)
    if np.isneginf(flat).all():
        centre = {"ha": "center", "va": "center", "color": "0.35"}
        ax.text(0.5, 0.5, ALL_EXACT, transform=ax.transAxes, **centre)
    several = {"row": "rows", "entry": "entries"}[shapes.unit]
    ax.set(xlabel=shapes.unit, ylabel=r"Pareto $\hat k$")
    count = f"{too_large.sum():,} of {flat.size:,} {several} above {thresholds[-1]:.2g}"
    set_title(ax, f"{shapes.subject}{count}", failed=bool(too_large.any()))
    if shapes.names is not None:
        _draw_names(ax, flat, too_large, shapes.names)
    return ax


class _Shapes(NamedTuple):
    """Pareto shapes with their description.

    Attributes:
        values: the shapes, ``(N,)`` or ``(N, d)``.
        unit: the unit that each shape belongs to, ``"row"`` or ``"entry"``.
        subject: the beginning of the title.
        num_draws: the number of draws from which shapes were estimated, if it is known.
        names: the names of rows, if they have any.
    """

    values: Array
    unit: str
    subject: str = ""
    num_draws: int | None = None
    names: Array | None = None


def _shapes(khat: Any, variable: str) -> _Shapes:
    if is_container(khat):
        array = variable_of(khat, "sample_stats", variable)
        values = as_array("khat", array.values)
        names = array[array.dims[-1]].values
        has_names = values.ndim == 1 and not np.array_equal(names, np.arange(len(names)))
        subject = "Laplace posterior of the latents:\n"
        return _Shapes(values, "row", subject, KHAT_DRAWS, names if has_names else None)
    if hasattr(khat, "pareto_k"):
        values = as_array("khat", khat.pareto_k)
        dims = [str(dim) for dim in getattr(khat.pareto_k, "dims", ())]
        # A list of present entries has one dimension as well.
        by_entry = values.ndim > 1 or any(_lists_entries(dim) for dim in dims)
        unit = "entry" if by_entry else "row"
        subject = f"Leaving out {'an entry' if by_entry else 'a row'} (PSIS-LOO):\n"
        return _Shapes(values, unit, subject, int(khat.n_samples))
    values = as_array("khat", khat)
    return _Shapes(values, "row" if values.ndim == 1 else "entry")


def _lists_entries(dim: str) -> bool:
    """Whether :func:`~pyro_expfam.to_arviz` lists entries, and not rows, along a dimension."""
    return dim.endswith("_entry") and not dim.endswith(("_row_entry", "_marginal_entry"))


def _thresholds(num_draws: int | None) -> tuple[float, ...]:
    if num_draws is None:
        return GOOD, HIGH
    if num_draws <= 10:
        raise ValueError(f"num_draws must be above 10, got {num_draws}")
    return (min(1 - 1 / math.log10(num_draws), HIGH),)


def _draw_thresholds(ax: Any, thresholds: tuple[float, ...]) -> None:
    for threshold, colour in zip(thresholds, (GREY, VERMILLION)[-len(thresholds) :], strict=True):
        ax.axhline(threshold, color=colour, linewidth=0.9, linestyle="--", zorder=0)
        ax.annotate(
            f"{threshold:.2g}",
            (1, threshold),
            (3, 0),
            ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            color=colour if colour != GREY else "0.4",
        )


def _draw_shapes(ax: Any, shapes: Array, too_large: Array) -> None:
    """Draws points for shapes up to the threshold, and triangles for larger ones."""
    place = np.arange(shapes.size)
    size = float(np.clip(4000 / shapes.size, 3, 18))
    small = {"s": size, "color": BLUE, "linewidths": 0}
    large = {"s": 1.6 * size, "marker": "^", "linewidths": 0}
    edge = {"clip_on": False, "transform": ax.get_xaxis_transform()}
    infinite, constant = np.isposinf(shapes), np.isneginf(shapes)
    finite = ~too_large & ~constant
    ax.scatter(place[finite], shapes[finite], **small)
    high = too_large & ~infinite
    ax.scatter(place[high], shapes[high], color=VERMILLION, **large)
    ax.scatter(place[infinite], np.ones(infinite.sum()), color=ORANGE, **large, **edge)
    if constant.any():
        ax.scatter(place[constant], np.zeros(constant.sum()), **small, **edge)


def _draw_names(ax: Any, shapes: Array, too_large: Array, names: Array) -> None:
    """Names the largest finite shapes above the threshold."""
    finite = np.flatnonzero(too_large & np.isfinite(shapes))
    rows = finite[np.argsort(-shapes[finite], kind="stable")][:NAMED]
    style = {"textcoords": "offset points", "fontsize": "small"}
    texts = [
        ax.annotate(name, (row, shapes[row]), (0, 0), **style)
        for row, name in zip(rows, short_names(names[rows]), strict=True)
    ]
    left = np.where(rows < len(shapes) / 2, 1.0, -1.0)
    place_names(ax, texts, np.column_stack([left, np.zeros(len(rows))]))
