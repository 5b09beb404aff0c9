"""The prior of a parameter that is learnt per column: normal around a value that columns share."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

CENTRE_SCALE = 3.0
"""The prior standard deviation of the common value about the start of the parameter, for logarithms
and logits: sizes from e^-6 to e^6 lie within two standard deviations. It keeps the common value of
a table of Poisson counts, whose sizes all run to infinity, where it is."""


class CommonPrior(NamedTuple):
    r"""The prior of unconstrained parameters :math:`u_j`, such as logarithms of sizes.

    It is :math:`u_j \sim N(\mu, \tau^2)` and :math:`\mu \sim N(m, s^2)` with the best :math:`\mu`.
    The scale :math:`\tau` is known: a learnt one would run to zero with all columns equal, where
    the density has no bound.

    Attributes:
        scale: :math:`\tau`.
        centre: :math:`m`.
        centre_scale: :math:`s`.
    """

    scale: float
    centre: float
    centre_scale: float = CENTRE_SCALE

    def common(self, free: Tensor) -> Tensor:
        r"""The best :math:`\mu` for parameters ``(d,)``."""
        of_columns, of_centre = self.scale**-2, self.centre_scale**-2
        total = of_columns * free.sum() + of_centre * self.centre
        return total / (of_columns * len(free) + of_centre)

    def log_density(self, free: Tensor) -> Tensor:
        r"""The log density of parameters ``(d,)`` and the best :math:`\mu`, ``()``."""
        common = self.common(free)
        of_columns = (free - common) / self.scale
        of_centre = (common - self.centre) / self.centre_scale
        constant = len(free) * math.log(self.scale) + math.log(self.centre_scale)
        constant += 0.5 * (len(free) + 1) * math.log(2 * math.pi)
        return -constant - 0.5 * (of_columns.square().sum() + of_centre.square())
