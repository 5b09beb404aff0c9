"""Places for names beside points, so that names do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array

GAP = 4.0
"""The distance of a name from its point, in points of the page."""

DISTANCES = (0.0, 8.0, 18.0, 30.0, 44.0, 60.0, 80.0)
"""Further distances that are tried."""

DIRECTIONS = np.radians(np.arange(0, 360, 20))
"""The directions that are tried."""

TURN = 10.0
"""What a turn away from the wanted direction costs, in points of the page."""


def place_names(ax: Any, texts: Sequence[Any], outward: Array) -> None:
    """Moves the names of points to free places inside the axes, the first names first.

    Args:
        ax: the axes, with their final limits.
        texts: annotations with an offset in points of the page.
        outward: the direction in which each name would best stand, ``(n, 2)``.
    """
    if not texts:
        return
    ax.figure.draw_without_rendering()
    pixel = ax.figure.dpi / 72
    room = _box(ax.get_window_extent())
    points = np.array([ax.transData.transform(text.xy) for text in texts])
    taken = np.empty((0, 4))
    for text, point, wanted in zip(texts, points, outward, strict=True):
        text.set(ha="center", va="center")
        extent = text.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        offsets, cost = _places(half / pixel, wanted)
        centres = point + pixel * offsets
        boxes = np.hstack([centres - half, centres + half])
        names = _shared(boxes[:, None], taken).sum(1)
        covers = ((boxes[:, None, :2] < points) & (points < boxes[:, None, 2:])).all(-1).sum(1)
        outside = 1 - _shared(boxes, room) / np.prod(2 * half)
        best = int((cost + 1e3 * (names > 0) + names + 1e4 * outside + 30 * covers).argmin())
        text.set_position(tuple(offsets[best]))
        taken = np.vstack([taken, boxes[best]])


def _places(half: Array, wanted: Array) -> tuple[Array, Array]:
    """Offsets of a name's centre from its point ``(n, 2)``, and their costs ``(n,)``."""
    angle = np.arctan2(wanted[1], wanted[0])
    turns = np.concatenate([[0.0], DIRECTIONS])
    unit = np.column_stack([np.cos(angle + turns), np.sin(angle + turns)])
    # Where the edge of the name touches its point.
    nearest = (half / np.abs(unit).clip(min=1e-9)).min(1)
    distance = np.array(DISTANCES)
    offsets = unit[:, None] * (nearest[:, None] + GAP + distance)[..., None]
    cost = distance + TURN * (1 - np.cos(turns))[:, None]
    return offsets.reshape(-1, 2), cost.ravel()


def _box(extent: Any) -> Array:
    return np.array([extent.x0, extent.y0, extent.x1, extent.y1])


def _shared(boxes: Array, others: Array) -> Array:
    """The area that boxes, ``(..., 4)`` with both corners, have in common."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared: Array = (high - low).clip(min=0).prod(-1)
    return shared
