"""Ranks against the uniform law: the empirical distribution function and its simultaneous band."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array, as_level, as_shape
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, axes_or_new, set_title

NUM_SIMULATIONS = 2_000
MOST_POINTS = 50


def plot_ecdf(
    ranks: Any, num_draws: int, level: float = 0.95, name: str = "", ax: Any = None
) -> Any:
    """The distribution function of ranks of simulation-based calibration, less the uniform one.

    Under a calibrated posterior the whole line stays in the grey band with probability ``level``.
    A line that rises and then falls below zero shows posteriors that are too narrow, the opposite
    posteriors that are too wide, and a line on one side of zero posteriors that are shifted.

    Args:
        ranks: how many draws of each simulation are below the truth, ``(S,)``.
        num_draws: draws per simulation.
        level: probability of the band.
        name: what was ranked, for the title.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: if ``ranks`` are not integers from 0 to ``num_draws``, or ``level`` is out of
            range.
        ModuleNotFoundError: if matplotlib is not installed.

    Source: Säilynoja, Bürkner and Vehtari (2022), *Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison*.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> ax = pef.plots.plot_ecdf(torch.randint(0, 100, (200,)), num_draws=99, name="z")
        >>> ax.get_title()
        'z'
    """
    values = as_shape("ranks", ranks, ("S",))
    as_level(level)
    if (values != values.round()).any() or values.min() < 0 or values.max() > num_draws:
        raise ValueError(f"ranks must be integers from 0 to {num_draws}, got {values}")
    points = _points(num_draws)
    low, high = band(len(values), points, num_draws, level)
    found = (values[:, None] <= points).mean(0)
    uniform = (points + 1) / (num_draws + 1)
    is_outside = bool(((found < low) | (found > high)).any())
    ax = axes_or_new(ax)
    at = uniform
    ax.fill_between(at, low - uniform, high - uniform, step="post", color=GREY, alpha=0.4, lw=0)
    ax.step(at, found - uniform, where="post", color=VERMILLION if is_outside else BLUE)
    ax.axhline(0, color="black", lw=0.6)
    ax.set(xlabel="rank, as a part of the draws", ylabel="difference from uniform", xlim=(0, 1))
    set_title(ax, name, failed=is_outside)
    return ax


def is_uniform(ranks: Array, num_draws: int, level: float = 0.95) -> bool:
    """Whether the distribution function of ranks stays in its simultaneous band."""
    points = _points(num_draws)
    low, high = band(len(ranks), points, num_draws, level)
    found = (np.asarray(ranks)[:, None] <= points).mean(0)
    return bool(((low <= found) & (found <= high)).all())


def band(size: int, points: Array, num_draws: int, level: float) -> tuple[Array, Array]:
    """The band that a distribution function of uniform ranks stays in with probability ``level``.

    It is made of binomial intervals of one probability, for which simulated ranks stay inside as
    often as is wanted.
    """
    from scipy.stats import binom

    uniform = (points + 1) / (num_draws + 1)
    random = np.random.default_rng(0)
    between = np.diff(uniform, prepend=0.0, append=1.0)
    counts = random.multinomial(size, between, NUM_SIMULATIONS).cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, size, uniform), binom.sf(counts - 1, size, uniform)).min(1)
    tail = np.quantile(tails, 1 - level)
    low, high = binom.ppf(tail, size, uniform), binom.isf(tail, size, uniform)
    return low / size, high / size


def _points(num_draws: int) -> Array:
    """Ranks at which the function is looked at; the last is certain."""
    count = min(num_draws, MOST_POINTS)
    return np.unique(np.linspace(0, num_draws - 1, count).round().astype(int))
