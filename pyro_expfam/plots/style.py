"""What all pictures share: matplotlib, axes, colours, titles and legends."""

from __future__ import annotations

import math
from typing import Any

BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
"""Okabe and Ito, *Color universal design*, 2008: told apart by colour-blind readers."""

RED = "#B2182B"
"""For the title of a picture that shows a failure."""

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

NAMES_IN_COLUMN = 18
"""Names above each other in a legend."""

LONGEST_NAME = 28
"""Letters of a name that a picture has room for."""


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


def set_title(ax: Any, text: str, failed: bool = False) -> None:
    """The title, which is red where the picture shows a failure."""
    # In the size of labels: a larger one would reach into the axes beside.
    ax.set_title(text, fontsize="medium", **({"color": RED} if failed else {}))


def legend_beside(ax: Any) -> None:
    """A legend right of the axes, or inside where the figure would not make room for it."""
    columns = math.ceil(len(ax.get_legend_handles_labels()[1]) / (NAMES_IN_COLUMN + 2))
    style = {"ncols": columns, "fontsize": "small", "handletextpad": 0.3, "columnspacing": 1.0}
    if ax.figure.get_layout_engine() is None:
        ax.legend(loc="best", framealpha=0.8, **style)
    else:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(frameon=False, borderaxespad=0.3, **place, **style)


def short(name: Any) -> str:
    """A name, of which the middle is left out where it is long."""
    text = str(name)
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
