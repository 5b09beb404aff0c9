"""The Pareto diagnostic of importance sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import is_container
from pyro_expfam.evidence.importance import KHAT_DRAWS
from pyro_expfam.plots.arguments import Array, as_array
from pyro_expfam.plots.containers import variable_of
from pyro_expfam.plots.style import BLUE, GREY, ORANGE, VERMILLION, axes_or_new

GOOD, HIGH = 0.5, 0.7
"""Up to the first, weights have a finite variance; beyond the second, estimates are unreliable."""


def plot_khat(
    khat: Any, num_draws: int | None = None, variable: str = "khat", ax: Any = None
) -> Any:
    r"""The Pareto shape of the importance weights of each row, with its thresholds.

    Estimates by importance sampling are reliable where :math:`\hat k \le 0.7`; of few draws
    :math:`S` more is asked, :math:`\hat k \le 1 - 1 / \log_{10} S` (Vehtari, Simpson, Gelman, Yao
    and Gabry, *Pareto smoothed importance sampling*, 2024). Values beyond that are drawn as
    triangles, infinite ones at the upper edge; rows whose weights are constant, with a shape of
    minus infinity, are at the lower.

    Args:
        khat: a container of ArviZ, from :func:`~pyro_expfam.to_arviz` with a
            :class:`~pyro_expfam.LaplaceGuide`, for the shapes of the latents' posteriors; what
            ``az.loo`` returns with ``pointwise=True``; or shapes by row, ``(N,)``, or by entry,
            ``(N, d)``.
        num_draws: the number of draws, for its threshold; by default that of the container or of
            ``az.loo``, and for an array 0.7 and, below it, 0.5.
        variable: the variable of the container, in its group ``sample_stats``.
        ax: axes to draw on.

    Returns:
        The axes; the title says how many are too large.

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
    values, known_draws = _shapes(khat, variable)
    if values.ndim == 0 or values.size == 0 or np.isnan(values).any():
        raise ValueError(
            f"khat must be numbers by row, none of them missing, got shape {values.shape} with "
            f"{np.isnan(values).sum()} missing"
        )
    thresholds = _thresholds(known_draws if num_draws is None else num_draws)
    unit = "row" if values.ndim == 1 else "entry"
    flat, place = values.ravel(), np.arange(values.size)
    reliable, infinite = flat <= thresholds[-1], np.isposinf(flat)
    exact = np.isneginf(flat)

    ax = axes_or_new(ax)
    size = float(np.clip(4000 / flat.size, 3, 18))
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
    finite = reliable & ~exact
    ax.scatter(place[finite], flat[finite], s=size, color=BLUE, linewidths=0)
    high = ~reliable & ~infinite
    style = {"s": 1.6 * size, "marker": "^", "linewidths": 0}
    ax.scatter(place[high], flat[high], color=VERMILLION, **style)
    ax.scatter(
        place[infinite],
        np.ones(infinite.sum()),
        color=ORANGE,
        clip_on=False,
        transform=ax.get_xaxis_transform(),
        **style,
    )
    if exact.any():
        ax.scatter(
            place[exact],
            np.zeros(exact.sum()),
            s=size,
            color=BLUE,
            clip_on=False,
            linewidths=0,
            transform=ax.get_xaxis_transform(),
        )
    ax.set(xlabel=unit, ylabel=r"Pareto $\hat k$")
    several = {"row": "rows", "entry": "entries"}[unit]
    ax.set_title(f"{(~reliable).sum()} of {flat.size:,} {several} above {thresholds[-1]:.2g}")
    return ax


def _shapes(khat: Any, variable: str) -> tuple[Array, int | None]:
    """Shapes, and the number of draws that they are of, if it is known."""
    if is_container(khat):
        return as_array("khat", variable_of(khat, "sample_stats", variable).values), KHAT_DRAWS
    if hasattr(khat, "pareto_k"):
        return as_array("khat", khat.pareto_k), int(khat.n_samples)
    return as_array("khat", khat), None


def _thresholds(num_draws: int | None) -> tuple[float, ...]:
    if num_draws is None:
        return GOOD, HIGH
    if num_draws <= 10:
        raise ValueError(f"num_draws must be above 10, got {num_draws}")
    return (min(1 - 1 / math.log10(num_draws), HIGH),)
