"""Drawing of the paper's figures 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from figure_panels import Panel
from map_colours import colours_of
from matplotlib.axes import Axes
from torch import Tensor

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.linewidth": 0.6,
    "savefig.dpi": 160,
}
INK, QUIET = "#22252a", "#7b828c"
LIMIT = 6.0
MEANS = {
    "Gaussian": "$y\\in\\mathbb{R}$, mean $\\eta$",
    "Bernoulli": "$y\\in\\{0,1\\}$, logit $\\eta$",
    "Poisson": "counts, mean $e^{\\eta}$",
    "Ising": "$y=\\pm1$, mean tanh $\\eta$",
    "Continuous Bernoulli": "$y\\in[0,1]$, density $\\propto e^{\\eta y}$",
    "Binomial": "10 trials, logit $\\eta$",
    "Negative binomial": "size 5, mean $e^{\\eta}$",
}


def draw_truth(path: Path, truth: Tensor) -> None:
    """Figure 2: the true latents."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(3.2, 3.2), layout="constrained")
        _draw_points(axes, truth, truth)
        figure.savefig(path)
        plt.close(figure)


def draw_grid(path: Path, truth: Tensor, rows: Mapping[str, Mapping[str, Panel]]) -> None:
    """Figure 3: a row of maps per family, beside the truth, with two numbers under each map."""
    methods = list(next(iter(rows.values())))
    height = 1.72 * len(rows) + 0.7
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(rows), 1 + len(methods), figsize=(9, height), squeeze=False)
        figure.subplots_adjust(
            left=0.135, right=0.995, top=1 - 0.42 / height, bottom=0.28 / height,
            wspace=0.06, hspace=0.22,
        )  # fmt: skip
        for line, (name, panels) in zip(grid, rows.items(), strict=True):
            _draw_points(line[0], truth, truth)
            _label(line[0], name)
            best = min(panel.error for panel in panels.values())
            for axes, shown in zip(line[1:], panels.values(), strict=True):
                _draw_points(axes, shown.points, truth)
                _write_scores(axes, shown, shown.error == best)
        for axes, title in zip(grid[0], ["truth", *methods], strict=True):
            axes.set_title(title, fontsize=11, color=INK, weight="bold", pad=8)
        figure.savefig(path)
        plt.close(figure)


def _draw_points(axes: Axes, points: Tensor, truth: Tensor) -> None:
    size = max(0.4, 14_000 / len(points) ** 1.08)
    x, y = np.asarray(points).T
    colours = colours_of(np.asarray(truth))
    axes.scatter(x, y, c=colours, s=size, linewidths=0, rasterized=True)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color("#dfe3e8")


def _label(axes: Axes, name: str) -> None:
    words = name.replace(" ", "\n")
    axes.annotate(
        words, (-0.08, 0.54), xycoords="axes fraction", ha="right", va="bottom", color=INK,
        fontsize=10, weight="bold",
    )  # fmt: skip
    axes.annotate(
        MEANS[name].replace(", ", ",\n"), (-0.08, 0.49), xycoords="axes fraction", ha="right",
        va="top", color=QUIET, fontsize=8,
    )  # fmt: skip


def _write_scores(axes: Axes, panel: Panel, is_best: bool) -> None:
    weight = "bold" if is_best else "normal"
    axes.annotate(
        f"{panel.error:.3f}", (0.02, -0.03), xycoords="axes fraction", ha="left", va="top",
        color=INK if is_best else QUIET, fontsize=9, weight=weight,
    )  # fmt: skip
    axes.annotate(
        f"r = {panel.position:.2f}", (0.98, -0.03), xycoords="axes fraction", ha="right", va="top",
        color=QUIET, fontsize=9,
    )  # fmt: skip
