"""Evenly spaced numbers as the support of a law, and how a transform shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.distributions import constraints

Transform = Callable[[Tensor], Tensor]
"""A normalised Fourier transform, complex at real points."""

FARTHEST = 70.0
"""Up to this frequency a period is looked for: spacings down to 0.09."""

SMALL = 1e-8
"""One minus the size of a transform at its period, up to rounding."""


@dataclass(frozen=True)
class Lattice(constraints.Constraint):
    """Evenly spaced numbers between two ends.

    Args:
        spacing: the distance of neighbours.
        origin: one of the numbers.
        low: the smallest number, or minus infinity.
        high: the largest number, or infinity.
    """

    spacing: float
    origin: float
    low: float = -math.inf
    high: float = math.inf

    is_discrete = True

    @property
    def lower_bound(self) -> float | None:
        """The smallest number, or None."""
        return self.low if math.isfinite(self.low) else None

    @property
    def upper_bound(self) -> float | None:
        """The largest number, or None."""
        return self.high if math.isfinite(self.high) else None

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is one of the numbers, up to rounding."""
        place = (value - self.origin) / self.spacing
        even = (place - place.round()).abs() <= 1e-5 * (1 + place.abs())
        slack = 0.5 * self.spacing
        return even & (value > self.low - slack) & (value < self.high + slack)

    def points(self, low: float, high: float) -> Tensor:
        """The numbers of an interval, in double precision."""
        low, high = max(low, self.low), min(high, self.high)
        first = math.ceil((low - self.origin) / self.spacing - 1e-6)
        last = math.floor((high - self.origin) / self.spacing + 1e-6)
        steps = torch.arange(first, max(first, last) + 1, dtype=torch.float64)
        return self.origin + self.spacing * steps

    def __repr__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            count = round((self.high - self.low) / self.spacing) + 1
            first = [f"{self.low + self.spacing * k:g}" for k in range(min(count, 2))]
            if count == 1:
                return f"the number {first[0]}"
            if count == 2:
                return f"the numbers {first[0]} and {first[1]}"
            return f"the numbers {first[0]}, {first[1]}, ..., {self.high:g}"
        if math.isfinite(self.low):
            return f"the numbers {self.low:g}, {self.low + self.spacing:g}, ..."
        if math.isfinite(self.high):
            return f"the numbers {self.high:g}, {self.high - self.spacing:g}, ..."
        before, after = self.origin - self.spacing, self.origin + self.spacing
        return f"the numbers ..., {before:g}, {self.origin:g}, {after:g}, ..."


def find_lattice(transform: Transform) -> Lattice | None:
    r"""The evenly spaced numbers that hold all mass, or None for other laws.

    A law lives on :math:`y_0 + \Delta k` if and only if its transform has the size 1 at
    :math:`2 \pi / \Delta`.
    """
    small = torch.tensor([1e-3], dtype=torch.float64)
    variance = float(-2 * transform(small).abs().log() / small**2)
    if not variance > 0:
        return None
    step = min(0.01, 0.25 / math.sqrt(variance))
    points = step * torch.arange(1, int(FARTHEST / step), dtype=torch.float64)
    size = transform(points).abs()
    away = torch.nonzero(size < 0.9)
    if len(away) == 0:
        return None
    first = int(away[0])
    peaks = (size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:]) & (size[1:-1] > 0.9)
    for place in torch.nonzero(peaks).flatten().tolist():
        if place < first:
            continue
        period = _peak(transform, float(points[place + 1]), step)
        if float(transform(_one(period)).abs()) > 1 - SMALL:
            return _lattice(transform, period)
    return None


def _lattice(transform: Transform, period: float) -> Lattice:
    # The place of a peak is known to the root of rounding: far peaks say it more exactly.
    for multiple in (8, 64):
        period = _peak(transform, multiple * period, 1e-4) / multiple
    spacing = _rounded(2 * math.pi / period)
    period = 2 * math.pi / spacing
    origin = float(transform(_one(period)).angle()) / period
    return Lattice(spacing, _rounded(origin % spacing) % spacing)


def _peak(transform: Transform, start: float, width: float) -> float:
    """Where the size of a transform is largest, close to a point."""
    for _ in range(6):
        around = start + width * torch.linspace(-1, 1, 41, dtype=torch.float64)
        start = float(around[transform(around).abs().argmax()])
        width *= 0.1
    return start


def _rounded(x: float) -> float:
    """A fraction with a small denominator, if one is this near."""
    near = float(Fraction(x).limit_denominator(1000))
    return near if abs(x - near) < 1e-7 * max(1.0, abs(x)) else x


def _one(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)
