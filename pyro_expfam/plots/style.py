"""The style of all pictures: matplotlib, axes, colours, titles and legends."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
"""Colours that colour-blind readers can tell apart (Okabe and Ito, *Color universal design*, 2008).
"""

RED = "#B2182B"
"""The colour of the title of a picture that shows a failure."""

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
"""Colours of names without order (Petroff, *Accessible color sequences for data visualization*,
2021)."""

SEQUENCE = "viridis"
"""Colours of numbers, and of more names than there are colours."""

GREY = "0.6"
"""The colour of lines and bands that are drawn for comparison."""

NAMES_IN_COLUMN = 18
"""The largest number of names in a column of a legend."""

LONGEST_NAME = 28
"""The largest number of letters of a name in a picture."""

LETTER = 5.5
"""The width of a letter of a title, in points."""


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
    """The given axes, or the axes of a new figure."""
    if ax is not None:
        return ax
    _, ax = pyplot().subplots(figsize=figsize, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def set_equal_units(ax: Any) -> None:
    """Makes one unit as long on both axes."""
    shared = (ax.get_shared_x_axes(), ax.get_shared_y_axes())
    # Matplotlib cannot move the limits of axes that share both with others.
    are_both_shared = all(len(axes.get_siblings(ax)) > 1 for axes in shared)
    ax.set_aspect("equal", adjustable="box" if are_both_shared else "datalim")


def set_title(ax: Any, text: str, failed: bool = False) -> None:
    """Sets the title, in red if the picture shows a failure."""
    # In the size of labels: a larger title would reach into the next axes.
    ax.set_title(_wrapped(ax, text), fontsize="medium", **({"color": RED} if failed else {}))


def _wrapped(ax: Any, text: str) -> str:
    """A title in lines as wide as its axes, if there are axes beside them."""
    place = ax.get_subplotspec()
    if place is None or place.get_topmost_subplotspec().get_gridspec().ncols == 1:
        return text
    letters = int(ax.get_position().width * ax.figure.get_figwidth() * 72 / LETTER)
    return "\n".join(textwrap.fill(line, max(letters, 12)) for line in text.split("\n"))


def legend_beside(ax: Any) -> None:
    """A legend right of the axes, or inside if the figure would not make room for it."""
    columns = math.ceil(len(ax.get_legend_handles_labels()[1]) / (NAMES_IN_COLUMN + 2))
    style = {"ncols": columns, "fontsize": "small", "handletextpad": 0.3, "columnspacing": 1.0}
    if ax.figure.get_layout_engine() is None:
        ax.legend(loc="best", framealpha=0.8, **style)
    else:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(frameon=False, borderaxespad=0.3, **place, **style)


def short(name: Any) -> str:
    """The name as text, without its middle if it is long."""
    text = str(name)
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def short_names(names: Iterable[Any]) -> list[str]:
    """Names as short text that differs where the names differ.

    Names that would be the same without their middle show the part in which they differ.
    """
    texts = [str(name) for name in names]
    shown = {text: short(text) for text in texts}
    alike = defaultdict(list)
    for text, label in shown.items():
        alike[label].append(text)
    for group in alike.values():
        if len(group) > 1:
            shown.update(zip(group, _different_parts(group), strict=True))
    return [shown[text] for text in texts]


def _common_start(texts: Sequence[str]) -> int:
    """The number of letters with which all texts begin."""
    first, last = min(texts), max(texts)  # all others are between them
    size = min(len(first), len(last))
    return next((k for k in range(size) if first[k] != last[k]), size)


def _different_parts(texts: Sequence[str]) -> list[str]:
    """The parts in which texts differ, with as much around them as there is room for."""
    begin = _common_start(texts)
    rests = [text[begin:][::-1] for text in texts]
    end = _common_start(rests)
    room = LONGEST_NAME - 2 - max(len(rest) - end for rest in rests)
    if room < 0:
        parts = short_names(rest[::-1][: len(rest) - end] for rest in rests)
        return [f"…{part}…" if end else f"…{part}" for part in parts]
    before = min(begin, room - min(end, room // 2))
    after = min(end, room - before)
    return [
        ("…" if before < begin else "")
        + text[begin - before : len(text) - end + after]
        + ("…" if after < end else "")
        for text in texts
    ]
