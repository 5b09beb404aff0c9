"""Model choice: evidence and LOO by number of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array, as_shape
from pyro_expfam.plots.style import BLUE, VERMILLION, axes_or_new, set_title


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
