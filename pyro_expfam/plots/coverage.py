"""Tests of coverage: whether fewer cases than promised lie inside their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_expfam.plots.arguments import Array

CHANCE = 0.01
"""The probability that a picture of a right model has a red title."""

SHORTFALL = 0.03
"""The least shortfall of coverage that counts as a failure, as in :func:`~pyro_expfam.check`; among
many entries a smaller one would be significant."""


def falls_short(inside: int, total: int, level: float, shortfall: float = 0.0) -> bool:
    """Whether ``inside`` of ``total`` cases are too few, if each is inside with this probability.

    The share must be below ``level`` by ``shortfall``, and by more than chance.
    """
    from scipy.stats import binom

    return bool(inside < (level - shortfall) * total and binom.cdf(inside, total, level) < CHANCE)


def binomial_band(size: Any, probability: Any, level: float) -> tuple[Array, Array]:
    """Equal-tailed intervals of binomial counts, with probability ``level`` at least."""
    from scipy.stats import binom

    low, high = (
        np.asarray(binom.ppf(tail, size, probability))
        for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    return low, high
