"""Calibration of posteriors: ranks of the truth among draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import as_level, as_shape
from pyro_expfam.plots.coverage import binomial_band, falls_short
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, axes_or_new, set_title

USUAL_BINS, FEWEST_BINS, MOST_BINS = 20, 10, 30
"""Default numbers of bars: enough to show a shape, and few enough for some simulations in each."""


def plot_calibration(
    ranks: Any, num_draws: int, bins: int | None = None, level: float = 0.99, ax: Any = None
) -> Any:
    """The histogram of ranks of simulation-based calibration, with the band of a uniform law.

    If the truth is drawn from the prior and the data from the model, the rank of the truth among
    independent posterior draws is uniform on ``0, ..., num_draws`` (Talts, Betancourt, Simpson,
    Vehtari and Gelman, *Validating Bayesian inference algorithms with simulation-based
    calibration*, 2018). Each bar then ends in the grey band, an interval of the binomial law, with
    probability ``level`` at least. Bars that end outside are vermillion. The title is red if there
    are more of them than chance explains. Bars that are high at both ends show that posteriors are
    too narrow, bars that are high in the middle that they are too wide, and bars that are high at
    one end that they are shifted.

    Args:
        ranks: how many draws of each simulation are below the truth, ``(N,)``.
        num_draws: draws per simulation.
        bins: number of bars. They have equal width if it divides ``num_draws + 1``. By default the
            divisor from 10 to 30 that is closest to 20, or 20 if there is none.
        level: probability of the band for each bar.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if ``ranks`` is not a list of integers from 0 to ``num_draws``, or another
            argument does not fit.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> truth, draws = torch.randn(500), torch.randn(99, 500)
        >>> ax = pef.plots.plot_calibration((draws < truth).sum(0), num_draws=99)
        >>> len(ax.patches)
        20
    """
    values = as_shape("ranks", ranks, ("N",))
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    if (values != values.round()).any() or values.min() < 0 or values.max() > num_draws:
        raise ValueError(
            f"ranks must be integers from 0 to num_draws, {num_draws}, got values from "
            f"{values.min():g} to {values.max():g}"
        )
    bars = _default_bins(num_draws + 1) if bins is None else bins
    if not 1 <= bars <= num_draws + 1:
        raise ValueError(f"bins must be from 1 to num_draws + 1, {num_draws + 1}, got {bins}")
    edges = np.linspace(0, num_draws + 1, bars + 1).round()
    counts, _ = np.histogram(values, edges)
    low, high = binomial_band(len(values), np.diff(edges) / (num_draws + 1), as_level(level))
    inside = (low <= counts) & (counts <= high)

    ax = axes_or_new(ax)
    borders = edges - 0.5
    colours = [BLUE if is_inside else VERMILLION for is_inside in inside]
    ax.bar(borders[:-1], counts, np.diff(borders), align="edge", color=colours, edgecolor="white")
    ax.fill_between(
        borders,
        np.append(low, low[-1]),
        np.append(high, high[-1]),
        step="post",
        color=GREY,
        alpha=0.4,
        linewidth=0,
        label=f"{level:.0%} band of a uniform law",
    )
    ax.set_xlim(borders[0], borders[-1])
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylim(0, 1.25 * max(counts.max(), high.max()))
    ax.set(xlabel=f"rank among {num_draws} draws", ylabel="simulations")
    outside = f"{bars - inside.sum()} of {bars} bars outside"
    set_title(ax, f"Ranks of the truth: {outside}", falls_short(int(inside.sum()), bars, level))
    ax.legend(frameon=False, loc="upper right", fontsize="small")
    return ax


def _default_bins(ranks: int) -> int:
    divisors = [n for n in range(FEWEST_BINS, MOST_BINS + 1) if ranks % n == 0]
    return min(divisors or [min(USUAL_BINS, ranks)], key=lambda n: abs(n - USUAL_BINS))
