"""The activation of a family by name and numbers, which is all that the kernels need of it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
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
    LogNormal,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Pareto,
    Poisson,
    PoissonLogNormal,
    Transformed,
    Tweedie,
    Weibull,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    ZeroTruncatedPoisson,
)
from pyro_expfam.families.positive import known
from pyro_expfam.families.zero_inflated import ZeroInflated
from pyro_expfam.links import ComplementaryLogLog, Link, Log, Probit, Softplus

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
    "ising",
    "tweedie",
    "zero_truncated_poisson",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
    "normal_effect",
    "poisson_softplus",
    "negative_binomial_softplus",
    "gamma_softplus",
    "tweedie_softplus",
    "gaussian_softplus",
    "gaussian_log",
]


Learnt = Literal[
    "cut_points",
    "size",
    "shape",
    "power",
    "scale",
    "precision",
    "zero_probability",
    "zero_probability_and_size",
    "effect",
    "size_of_softplus",
    "shape_of_softplus",
]

PLACES: dict[tuple[Learnt, str], int] = {
    ("power", "shape"): 1,
    ("zero_probability_and_size", "size"): 1,
}
"""The places of learnt parameters among the numbers that kernels read of a law: by what is learnt,
and the name of the parameter. Other parameters are first."""


class Activation(NamedTuple):
    """The mean of a family; a logistic one is ``size * sigmoid(slope * eta) - shift``.

    ``constant`` is added to the antiderivative of the mean that is 0 at minus infinity (for a shift
    of 0), which gives the log-partition. A softmax is over ``levels`` linear predictors. A negative
    binomial has a ``size``, and a gamma has its shape there; their slopes depend on the
    observations. So do the slopes of bits under a link, and of ``counts`` of a total ``size``.
    Ordered answers have ``levels``, and their cut points are in the family.

    The kernels of the evidence read the precision of proportions, the dispersion of amounts and the
    scale of real numbers and of effects on counts as ``size``, the power of amounts and durations
    as ``power``, and the probability of additional zeros as ``zeros``. ``learnt`` says in which
    parameters they have gradients, if there are any.
    """

    name: Name
    slope: float = 1.0
    size: float | Tensor = 1.0
    shift: float = 0.0
    constant: float = 0.0
    levels: int = 1
    counts: bool = False
    power: float | Tensor = 1.0
    zeros: float | Tensor = 0.0
    learnt: Learnt | None = None


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

    They have proportions, spins, amounts with zeros, counts without them, with more of them and
    with an effect in every entry too, compositions of any number of parts, which are one category,
    laws of observations of which a function follows a family that they have, and laws under a link
    of their means. The size of an amount is its dispersion.
    """
    kind = type(family)
    if isinstance(family, Linked) and kind is Linked:
        return _under_link_of_mean(family) or activation_of(family)
    if isinstance(family, Beta) and kind is Beta:
        return Activation("beta", size=known(family.precision, "precision"), learnt="precision")
    if isinstance(family, Tweedie) and kind is Tweedie:
        dispersion = known(family.dispersion, "dispersion")
        return Activation("tweedie", size=dispersion, power=known(family.power, "power"))
    if isinstance(family, PoissonLogNormal) and kind is PoissonLogNormal:
        return Activation("normal_effect", size=known(family.scale, "scale"), learnt="effect")
    if isinstance(family, ZeroInflated):
        return _zero_inflated(family)
    if isinstance(family, Gaussian) and kind is Gaussian:
        return _real_numbers(torch.as_tensor(family.scale).detach())
    if isinstance(family, Weibull) and kind is Weibull:
        power = known(family.shape, "shape")
        return Activation("gamma", power=power, learnt="power")
    if isinstance(family, Transformed) and kind in (Pareto, LogNormal):
        return evidence_activation_of(family.base)
    own, found = _OF_EVIDENCE.get(kind), activation_of(family)
    if own is not None:
        return Activation(own)
    return None if found is None else found._replace(learnt=_LEARNT.get(kind))


def evidence_observations(family: Family, y: Tensor) -> Tensor:
    """Observations as the kernels of the evidence read them, ``(N, d)``.

    They are sufficient statistics, or the observations of a family without them.
    """
    if isinstance(family, Transformed):
        return evidence_observations(family.base, family.transform(y))
    statistic = family.entries(y).statistic
    return y if statistic is None else statistic


def _zero_inflated(family: ZeroInflated) -> Activation | None:
    zeros = known(family.zero_probability, "zero_probability")
    if type(family) is ZeroInflatedPoisson:
        return Activation("zero_inflated_poisson", zeros=zeros, learnt="zero_probability")
    if isinstance(family, ZeroInflatedNegativeBinomial):
        return Activation(
            "zero_inflated_negative_binomial",
            size=known(family.size, "size"),
            zeros=zeros,
            learnt="zero_probability_and_size",
        )
    return None


def _real_numbers(scale: Tensor) -> Activation:
    # Numbers are in units of a scale that differs by entry, too, which is not learnt.
    if scale.dim() > 1 and scale.numel() > scale.shape[-1]:
        return Activation("identity")
    return Activation("identity", size=scale, learnt="scale")


def _under_link(family: Linked) -> Activation | None:
    base, name = family.base, _LINKS.get(type(family.link))
    if name is None or type(base) not in (Bernoulli, Binomial):
        return None
    if isinstance(base, Binomial):
        return Activation(name, size=base.total_count, counts=True)
    return Activation(name)


def _under_link_of_mean(family: Linked) -> Activation | None:
    """A law under a link of its mean, with the parameters of the law without the link."""
    base = family.base
    # Exact types: another law may read its observations in another way.
    name = _OF_MEANS.get((type(base), type(family.link)))
    if name is None:
        return None
    if isinstance(base, Gaussian):
        return Activation(name, size=known(base.scale, "scale"))
    own = evidence_activation_of(base)
    assert own is not None
    return own._replace(name=name, learnt=_LEARNT_UNDER_LINK.get(own.learnt))


_OF_MEANS: dict[tuple[type[Family], type[Link]], Name] = {
    (Poisson, Softplus): "poisson_softplus",
    (NegativeBinomial, Softplus): "negative_binomial_softplus",
    (Geometric, Softplus): "negative_binomial_softplus",
    (Gamma, Softplus): "gamma_softplus",
    (Exponential, Softplus): "gamma_softplus",
    (Tweedie, Softplus): "tweedie_softplus",
    (Gaussian, Softplus): "gaussian_softplus",
    (Gaussian, Log): "gaussian_log",
}
"""The names of laws under links of their means."""

_LEARNT_UNDER_LINK: dict[Learnt | None, Learnt] = {
    "size": "size_of_softplus",
    "shape": "shape_of_softplus",
}


_LINKS: dict[type[Link], Name] = {
    Probit: "probit",
    ComplementaryLogLog: "complementary_log_log",
}


_OF_EVIDENCE: dict[type[Family], Name] = {
    Ising: "ising",
    Multinomial: "softmax",
    ZeroTruncatedPoisson: "zero_truncated_poisson",
}

_LEARNT: dict[type[Family], Learnt] = {
    Gamma: "shape",
    NegativeBinomial: "size",
    Ordinal: "cut_points",
}

_ACTIVATIONS: dict[type[Family], Activation] = {
    Gaussian: Activation("identity"),
    Bernoulli: Activation("logistic"),
    Ising: Activation("logistic", slope=2.0, size=2.0, shift=1.0, constant=-math.log(2)),
    Poisson: Activation("exponential"),
    ContinuousBernoulli: Activation("continuous_bernoulli"),
}
