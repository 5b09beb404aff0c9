"""What the kernels have to know of a family: its activation, by name and numbers."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from torch import Tensor

from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Family,
    Gaussian,
    Ising,
    Poisson,
)


class Activation(NamedTuple):
    """The mean of a family; a logistic one is ``size * sigmoid(slope * eta) - shift``.

    To the log-partition that has this derivative and is 0 at minus infinity, if shift is 0, comes
    ``constant``.
    """

    name: Literal["identity", "exponential", "logistic", "continuous_bernoulli"]
    slope: float = 1.0
    size: float | Tensor = 1.0
    shift: float = 0.0
    constant: float = 0.0


def activation_of(family: Family) -> Activation | None:
    """The activation of a family, or None where the kernels have none like it."""
    # Exact types: a subclass may have another mean.
    if isinstance(family, Binomial) and type(family) is Binomial:
        return Activation("logistic", size=family.total_count)
    return _ACTIVATIONS.get(type(family))


_ACTIVATIONS: dict[type[Family], Activation] = {
    Gaussian: Activation("identity"),
    Bernoulli: Activation("logistic"),
    Ising: Activation("logistic", slope=2.0, size=2.0, shift=1.0, constant=-math.log(2)),
    Poisson: Activation("exponential"),
    ContinuousBernoulli: Activation("continuous_bernoulli"),
}
