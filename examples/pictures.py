"""The pictures of the quickstart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D
from numpy.typing import NDArray

Array = NDArray[Any]

# The ten colours of Petroff, "Accessible color sequences for data visualization" (2021).
DIGIT_COLOURS = (
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
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 200,
}


class LatentPanel(NamedTuple):
    """Posterior of the rows in a plane: a title, means ``(N, 2)`` and covariances ``(N, 2, 2)``."""

    title: str
    mean: Array
    covariance: Array


def save_loss(path: Path, losses: Sequence[float], baseline: float) -> None:
    """The loss by epoch, beside the loss of a model without latents."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 3))
        axes.axhline(baseline, color="0.5", linestyle="--", linewidth=1)
        axes.annotate("independent pixels", (len(losses), baseline), ha="right", va="bottom")
        axes.plot(range(1, len(losses) + 1), losses, color=DIGIT_COLOURS[0])
        axes.set(xlabel="epoch", ylabel="loss per pixel (nats)")
        figure.savefig(path)
        plt.close(figure)


def save_latents(path: Path, panels: Sequence[LatentPanel], digits: Array) -> None:
    """Posterior ellipses of one standard deviation, coloured by digit."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(3.9 * len(panels) + 0.6, 3.7), sharex=True, sharey=True
        )
        for axes, panel in zip(grid, panels, strict=True):
            _draw_latents(axes, panel, digits)
        grid[0].set_ylabel("second principal coordinate")
        handles = [
            Line2D([], [], marker="o", linestyle="", color=colour, label=str(digit))
            for digit, colour in enumerate(DIGIT_COLOURS)
        ]
        figure.legend(handles=handles, title="digit", loc="outside right center", frameon=False)
        figure.savefig(path)
        plt.close(figure)


def _draw_latents(axes: Axes, panel: LatentPanel, digits: Array) -> None:
    colours = np.array(DIGIT_COLOURS)[digits]
    variances, vectors = np.linalg.eigh(panel.covariance)
    diameters = 2 * np.sqrt(variances)
    angles = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    ellipses = EllipseCollection(
        diameters[:, 1],
        diameters[:, 0],
        angles,
        units="xy",
        offsets=panel.mean,
        offset_transform=axes.transData,
        facecolors=to_rgba_array(colours, 0.25),
        edgecolors=colours,
        linewidths=0.6,
    )
    axes.add_collection(ellipses)
    axes.update_datalim(panel.mean + diameters.max() / 2)
    axes.update_datalim(panel.mean - diameters.max() / 2)
    axes.autoscale_view()
    for (x, y), digit, colour in zip(panel.mean, digits, colours, strict=True):
        axes.text(x, y, str(digit), color=colour, ha="center", va="center", fontsize=6)
    axes.set(title=panel.title, xlabel="first principal coordinate", aspect="equal")


def save_reconstructions(
    path: Path, images: Array, observed: Array, mean: Array, sd: Array, total: int
) -> None:
    """Images in columns: the scan, the observed pixels, posterior mean and standard deviation."""
    hidden = np.where(observed, images, np.nan)
    rows = [
        ("scan", images, _grey(), total),
        ("observed", hidden, _grey(), total),
        ("posterior mean", mean, _grey(), total),
        ("posterior sd", sd, plt.get_cmap("viridis"), float(np.ceil(sd.max()))),
    ]
    with plt.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure, grid = plt.subplots(len(rows), len(images), figsize=(7.5, 3.2))
        for line, (label, table, colours, top) in zip(grid, rows, strict=True):
            for axes, image in zip(line, table, strict=True):
                shown = axes.imshow(image.reshape(8, 8), cmap=colours, vmin=0, vmax=top)
                axes.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
            if label in ("observed", "posterior sd"):
                block = grid[:3] if label == "observed" else line
                figure.colorbar(shown, ax=block, label="dark points", ticks=[0, top / 2, top])
        figure.savefig(path)
        plt.close(figure)


def _grey() -> Any:
    colours = plt.get_cmap("gray_r").copy()
    colours.set_bad("#9ecae1")
    return colours
