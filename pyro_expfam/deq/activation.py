"""What the kernels have to know of a family: its activation, by name and numbers."""

from __future__ import annotations

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
    """The mean of a family; a logistic one is ``size * sigmoid(slope * eta) - shift``."""

    name: Literal["identity", "exponential", "logistic", "continuous_bernoulli"]
    slope: float = 1.0
    size: float | Tensor = 1.0
    shift: float = 0.0


def activation_of(family: Family) -> Activation | None:
    """The activation of a family, or None where the kernels have none like it."""
    # Exact types: a subclass may have another mean.
    kind = type(family)
    if kind is Binomial:
        return Activation("logistic", size=family.total_count)  # type: ignore[attr-defined]
    return _ACTIVATIONS.get(kind)


_ACTIVATIONS: dict[type[Family], Activation] = {
    Gaussian: Activation("identity"),
    Bernoulli: Activation("logistic"),
    Ising: Activation("logistic", slope=2.0, size=2.0, shift=1.0),
    Poisson: Activation("exponential"),
    ContinuousBernoulli: Activation("continuous_bernoulli"),
}
