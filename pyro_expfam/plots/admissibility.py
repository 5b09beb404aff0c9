"""The base measure of a function that may be a log-partition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyro_expfam.families import Admissibility
from pyro_expfam.plots.style import BLUE, GREY, VERMILLION, axes_or_new, set_title

SMALLEST = 1e-4
"""Masses above this size are on a logarithmic scale where some are negative."""


def plot_admissibility(found: Admissibility, ax: Any = None) -> Any:
    """The base measure of a log-partition, or what speaks against a function.

    It is the measure at the real point ``found.at``, with sum 1. On a lattice it is drawn as
    masses, negative ones in another colour and all of them on a logarithmic scale. Elsewhere it is
    a density. Where there is neither, it is the size of the Fourier transform, which is at most 1
    for a measure.

    Args:
        found: what :func:`~pyro_expfam.families.check_admissible` has found.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: if ``found`` is something else.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> found = pef.families.check_admissible(torch.exp)
        >>> pef.plots.plot_admissibility(found).get_title()
        'Admissible as far as seen'
    """
    if not isinstance(found, Admissibility):
        raise TypeError(
            "found must come from pyro_expfam.families.check_admissible, got "
            f"{type(found).__name__}"
        )
    ax = axes_or_new(ax)
    try:
        measure = found.base_measure(32 if found.lattice is not None else 201)
    except ValueError:
        _draw_transform(ax, found)
    else:
        points, values = measure.points.numpy(), measure.values.numpy()
        if measure.is_lattice:
            _draw_masses(ax, points, np.where(np.abs(values) < 1e-12, 0.0, values))
        else:
            ax.plot(points, values, color=BLUE, linewidth=1.4)
            ax.set_ylabel("density")
        ax.axhline(0.0, color=GREY, linewidth=0.8)
        ax.set_xlabel("y")
    if found.admissible:
        set_title(ax, "Admissible as far as seen")
    else:
        set_title(ax, f"Not admissible: an eigenvalue of {found.smallest:.2g}", failed=True)
    return ax


def _draw_masses(ax: Any, points: Any, values: Any) -> None:
    shown = np.nonzero(np.abs(values) > 1e-9 * np.abs(values).max())[0]
    points, values = points[shown[0] : shown[-1] + 1], values[shown[0] : shown[-1] + 1]
    negative = values < 0
    for some, colour in ((~negative, BLUE), (negative, VERMILLION)):
        ax.vlines(points[some], 0.0, values[some], color=colour, linewidth=1.6)
        ax.plot(points[some], values[some], "o", color=colour, markersize=4)
    if negative.any():
        ax.set_yscale("symlog", linthresh=SMALLEST)
        worst = int(values.argmin())
        label = f"{values[worst]:.2g} at {points[worst]:g}"
        ax.annotate(
            label, (points[worst], values[worst]), (8, 3), textcoords="offset points", va="bottom"
        )
    if (points == points.round()).all():
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("mass")


def _draw_transform(ax: Any, found: Admissibility) -> None:
    s = torch.linspace(0.0, 12.0, 601, dtype=torch.float64)
    size = found.transform(s).abs().numpy()
    ax.plot(s.numpy(), size, color=BLUE, linewidth=1.4)
    ax.axhline(1.0, color=GREY, linewidth=0.8)
    # A size above 1 is enough to show, however large it gets.
    ax.set_ylim(0.0, min(3.0, 1.1 * float(np.nanmax(size))))
    ax.set_xlabel("frequency")
    ax.set_ylabel("size of the transform")
