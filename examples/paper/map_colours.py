"""Colours by position in the plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LIGHTNESS = 0.66
CHROMA = 0.16
EXTENT = 6.2
"""The distance from the origin at which colours are most vivid."""

# Oklab to linear sRGB (Ottosson, "A perceptual color space for image processing", 2020).
TO_CUBE_ROOTS = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def colours_of(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colours ``(N, 3)`` of points ``(N, 2)``: direction is hue, distance is vividness.

    Equal steps in the plane look like equal steps of colour (Oklab).
    """
    plane = CHROMA * points / EXTENT
    lab = np.column_stack([np.full(len(plane), LIGHTNESS), plane])
    linear = (lab @ TO_CUBE_ROOTS.T) ** 3 @ TO_RGB.T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
