"""Information of the items of a questionnaire about a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_expfam.plots.arguments import as_shape
from pyro_expfam.plots.style import CATEGORIES, GREY, axes_or_new, set_title

NAMED = 10
"""The most items whose curves have names and colours of their own."""


def plot_information(
    latent: Any, information: Any, names: Sequence[str] | None = None, ax: Any = None
) -> Any:
    """The information of every item about a latent, and the information of all of them.

    The information of all items together is a grey area, with its own axis on the right. Beyond 10
    items curves have no names.

    Args:
        latent: values of the latent, ``(K,)``.
        information: the information of each item there, ``(K, d)``, as
            :meth:`ItemResponse.information <pyro_expfam.ItemResponse.information>` gives it.
        names: the names of the items, ``d`` of them; by default numbers.
        ax: axes to draw on.

    Returns:
        The axes of the items.

    Raises:
        TypeError: if an argument does not hold numbers.
        ValueError: if a shape does not fit; the message names the argument.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import pyro_expfam as pef
        >>> ax = pef.plots.plot_information([-1.0, 0.0, 1.0], [[0.1, 0.2], [0.3, 0.1], [0.1, 0.0]])
        >>> ax.get_xlabel()
        'latent'
    """
    at = as_shape("latent", latent, ("K",))
    items = as_shape("information", information, (len(at), "d"))
    labels = [str(k) for k in range(items.shape[1])] if names is None else list(names)
    if len(labels) != items.shape[1]:
        raise ValueError(f"names must be {items.shape[1]} names, got {len(labels)}")
    ax = axes_or_new(ax)
    total = ax.twinx()
    total.fill_between(at, items.sum(1), color="0.9", lw=0)
    total.set_ylabel("all items", color=GREY)
    total.tick_params(colors=GREY)
    total.set_ylim(bottom=0)
    are_named = len(labels) <= NAMED
    for place, (name, curve) in enumerate(zip(labels, items.T, strict=True)):
        colour = CATEGORIES[place % len(CATEGORIES)] if are_named else CATEGORIES[0]
        ax.plot(at, curve, color=colour, lw=1.2 if are_named else 0.7, label=name)
    # The curves of the items are in front of the area.
    ax.set_zorder(total.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("latent")
    ax.set_ylabel("information of an item")
    if are_named:
        ax.legend(frameon=False)
    set_title(ax, "Information")
    return ax
