"""Model choice: evidence and LOO by number of latents, and held-out evidence by family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array, as_shape
from pyro_expfam.plots.style import BLUE, CATEGORIES, VERMILLION, axes_or_new, set_title

LARGE_RANGE = 100.0
"""Beyond this number of nats the axis of differences is logarithmic: a poor family would otherwise
hide how the others differ."""

LINEAR_PART = 10.0
"""A logarithmic axis is linear below this number of nats."""

WIDTH = 0.3
"""How far lines of different families are moved apart along the axis of latents, in all."""


def plot_evidence(
    num_latents: Sequence[int],
    evidence: Any,
    evidence_se: Any = None,
    loo: Any = None,
    loo_se: Any = None,
    loo_name: str = "LOO",
    ax: Any = None,
) -> Any:
    """The log evidence, and the log predictive density by LOO, by number of latents.

    Both are sums over the whole table in nats, so that they share an axis. The ring marks the
    largest value of each.

    Args:
        num_latents: the numbers of latents, ``(K,)``.
        evidence: log evidence, ``(K,)``.
        evidence_se: standard errors of ``evidence``, ``(K,)``, drawn as bars of one standard error.
        loo: expected log predictive density, ``(K,)``, such as ``elpd_loo`` of ArviZ.
        loo_se: standard errors of ``loo``, ``(K,)``.
        loo_name: the name of ``loo``, for another estimate such as from held-out rows.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if a shape does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import pyro_expfam as pef
        >>> ax = pef.plots.plot_evidence([1, 2, 3], [-520.0, -480.0, -485.0])
        >>> ax.get_xlabel()
        'number of latents'
    """
    number = as_shape("num_latents", num_latents, ("K",))
    size = number.shape
    value = as_shape("evidence", evidence, size)
    error = None if evidence_se is None else as_shape("evidence_se", evidence_se, size)
    predictive = None if loo is None else as_shape("loo", loo, size)
    predictive_error = None if loo_se is None else as_shape("loo_se", loo_se, size)
    if predictive is None and predictive_error is not None:
        raise ValueError("loo_se must be left out if there is no loo, got loo_se alone")

    ax = axes_or_new(ax)
    _draw(ax, number, value, error, BLUE, "o", "evidence")
    if predictive is not None:
        _draw(ax, number, predictive, predictive_error, VERMILLION, "s", loo_name)
        ax.legend(frameon=False)
    ax.set_xticks(number, [f"{latents:g}" for latents in number])
    ax.set_xlabel("number of latents")
    ax.set_ylabel("log evidence (nats)" if predictive is None else "log density (nats)")
    # The label of the axis completes the title: a longer one would reach into the next axes.
    set_title(ax, "Evidence" if predictive is None else f"Evidence and {loo_name}")
    return ax


def plot_comparison(
    families: Sequence[str],
    num_latents: Sequence[int],
    difference: Any,
    difference_se: Any = None,
    best: tuple[str, int] | None = None,
    ax: Any = None,
) -> Any:
    """How far models are below the best one on held-out rows, by family and number of latents.

    Each family has a line. Beyond 100 nats the axis is logarithmic, and linear below 10 nats.

    Args:
        families: the name of the family of each model, ``K`` of them.
        num_latents: the number of latents of each model, ``(K,)``.
        difference: log densities of held-out rows below the largest, in nats, ``(K,)``.
        difference_se: their standard errors, ``(K,)``, drawn as bars of one standard error.
        best: the family and the number of latents of the model that has been chosen, which gets a
            ring.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if a shape does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import pyro_expfam as pef
        >>> families = ["Poisson", "Poisson", "geometric", "geometric"]
        >>> ax = pef.plots.plot_comparison(families, [1, 2, 1, 2], [90.0, 60.0, 3.0, 0.0])
        >>> ax.get_xlabel()
        'number of latents'
    """
    number = as_shape("num_latents", num_latents, ("K",))
    value = as_shape("difference", difference, number.shape)
    error = None if difference_se is None else as_shape("difference_se", difference_se, value.shape)
    if len(families) != len(number):
        raise ValueError(f"families must be {len(number)} names, got {len(families)}")
    ax = axes_or_new(ax)
    names = list(dict.fromkeys(families))
    for place, name in enumerate(names):
        chosen = np.array([family == name for family in families])
        chosen = np.flatnonzero(chosen)[number[chosen].argsort()]
        shift = WIDTH * ((place + 0.5) / len(names) - 0.5)
        colour = CATEGORIES[place % len(CATEGORIES)]
        style = {"color": colour, "marker": "o", "markersize": 4.5, "linewidth": 1.2}
        bars = None if error is None else error[chosen]
        at = number[chosen] + shift
        ax.errorbar(at, value[chosen], yerr=bars, label=name, capsize=0, **style)
        for k in chosen:
            if best is not None and (name, int(number[k])) == tuple(best):
                ring = {"color": colour, "markerfacecolor": "none", "markersize": 10}
                ax.plot(number[k] + shift, value[k], "o", **ring)
    if np.nanmax(value) > LARGE_RANGE:
        ax.set_yscale("symlog", linthresh=LINEAR_PART)
    ax.invert_yaxis()
    ticks = np.unique(number)
    ax.set_xticks(ticks, [f"{latents:g}" for latents in ticks])
    ax.set_xlabel("number of latents")
    ax.set_ylabel("nats below the best")
    ax.legend(frameon=False)
    set_title(ax, "Rows held out")
    return ax


def _draw(
    ax: Any, number: Array, value: Array, error: Array | None, colour: str, marker: str, label: str
) -> None:
    order = number.argsort()
    bars = None if error is None else error[order]
    style = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.2}
    ax.errorbar(number[order], value[order], yerr=bars, label=label, capsize=0, **style)
    best = np.nanargmax(value)
    ring = {"color": colour, "markerfacecolor": "none", "markersize": 10}
    ax.plot(number[best], value[best], "o", **ring)
