"""What all pictures share: matplotlib, axes and colours."""

from __future__ import annotations

from typing import Any

BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
"""Okabe and Ito, *Color universal design*, 2008: told apart by colour-blind readers."""

CATEGORIES = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Petroff, *Accessible color sequences for data visualization*, 2021: for names without order."""

SEQUENCE = "viridis"
"""For numbers, and for more names than there are colours."""

GREY = "0.6"
"""For what is only there to compare with."""


def pyplot() -> Any:
    """``matplotlib.pyplot``.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need matplotlib, which is not installed: pip install 'pyro-expfam[plots]'"
        ) from error
    return plt


def axes_or_new(ax: Any, figsize: tuple[float, float] = (5.0, 3.5)) -> Any:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    _, ax = pyplot().subplots(figsize=figsize, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
