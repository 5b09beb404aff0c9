"""The activation of a family by name and numbers, which is all that the kernels need of it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from torch import Tensor

from pyro_expfam.families import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Exponential,
    Family,
    Gamma,
    Gaussian,
    Geometric,
    Ising,
    Linked,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
)
from pyro_expfam.families.positive import known
from pyro_expfam.links import ComplementaryLogLog, Link, Probit

Name = Literal[
    "identity",
    "exponential",
    "logistic",
    "continuous_bernoulli",
    "softmax",
    "negative_binomial",
    "gamma",
    "probit",
    "complementary_log_log",
    "ordinal",
    "beta",
]


class Activation(NamedTuple):
    """The mean of a family; a logistic one is ``size * sigmoid(slope * eta) - shift``.

    ``constant`` is added to the antiderivative of the mean that is 0 at minus infinity (for a shift
    of 0), which gives the log-partition. A softmax is over ``levels`` linear predictors. A negative
    binomial has a ``size``, and a gamma has its shape there; their slopes depend on the
    observations. So do the slopes of bits under a link, and of ``counts`` of a total ``size``.
    Ordered answers have ``levels``, and their cut points are in the family. Proportions have their
    precision as ``size``.
    """

    name: Name
    slope: float = 1.0
    size: float | Tensor = 1.0
    shift: float = 0.0
    constant: float = 0.0
    levels: int = 1
    counts: bool = False


def activation_of(family: Family) -> Activation | None:
    """The activation of a family, or None where the kernels have none like it."""
    # Exact types: a subclass may have another mean.
    found = _ACTIVATIONS.get(type(family))
    if found is not None:
        return found
    if isinstance(family, Binomial) and type(family) is Binomial:
        return Activation("logistic", size=family.total_count)
    if isinstance(family, NegativeBinomial) and type(family) in (NegativeBinomial, Geometric):
        return Activation("negative_binomial", size=known(family.size, "size"))
    if isinstance(family, Gamma) and type(family) in (Gamma, Exponential):
        return Activation("gamma", size=known(family.shape, "shape"))
    if isinstance(family, Categorical) and type(family) is Categorical:
        return Activation("softmax", levels=family.levels)
    if isinstance(family, Ordinal) and type(family) is Ordinal:
        return Activation("ordinal", levels=family.levels)
    if isinstance(family, Linked) and type(family) is Linked:
        return _under_link(family)
    return None


def evidence_activation_of(family: Family) -> Activation | None:
    """The activation of a family, or None where the kernels of the evidence have none like it.

    They have proportions too, and compositions of any number of parts, which are one category.
    """
    if isinstance(family, Beta) and type(family) is Beta:
        return Activation("beta", size=known(family.precision, "precision"))
    if isinstance(family, Multinomial) and type(family) is Multinomial:
        return Activation("softmax")
    return activation_of(family)


def _under_link(family: Linked) -> Activation | None:
    base, name = family.base, _LINKS.get(type(family.link))
    if name is None or type(base) not in (Bernoulli, Binomial):
        return None
    if isinstance(base, Binomial):
        return Activation(name, size=base.total_count, counts=True)
    return Activation(name)


_LINKS: dict[type[Link], Name] = {
    Probit: "probit",
    ComplementaryLogLog: "complementary_log_log",
}


_ACTIVATIONS: dict[type[Family], Activation] = {
    Gaussian: Activation("identity"),
    Bernoulli: Activation("logistic"),
    Ising: Activation("logistic", slope=2.0, size=2.0, shift=1.0, constant=-math.log(2)),
    Poisson: Activation("exponential"),
    ContinuousBernoulli: Activation("continuous_bernoulli"),
}
