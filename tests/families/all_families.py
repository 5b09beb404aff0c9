"""The families that every test of families goes through, written once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.families import (
    Bernoulli,
    Beta,
    Binomial,
    BoseEinstein,
    ContinuousBernoulli,
    Exponential,
    ExponentialFamily,
    Family,
    Gamma,
    Gaussian,
    Ising,
    Linked,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Pareto,
    Poisson,
    PoissonLogNormal,
    Tweedie,
    Weibull,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    ZeroTruncatedPoisson,
)
from pyro_expfam.links import (
    ComplementaryLogLog,
    Identity,
    Log,
    Logit,
    Mean,
    NaturalParameter,
    Power,
    Probit,
    Reciprocal,
    ReLU,
    Softplus,
)


class Geometric(ExponentialFamily):
    """A user's family with negative natural parameters: counts, by their log ratio."""

    natural_domain = constraints.less_than(0.0)
    support = constraints.nonnegative_integer

    def log_partition(self, eta: Tensor) -> Tensor:
        return -torch.log(-torch.expm1(eta))

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        uniform = torch.rand(*sample_shape, *eta.shape, dtype=torch.float64)
        return (torch.log(uniform) / eta.double()).floor().to(eta.dtype)


class Logistic(Family):
    """A user's law that is not an exponential family, by its log density."""

    is_convex = True
    self_concordance = 1.0
    support = constraints.real

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The logistic density around ``eta``."""
        softplus = torch.nn.functional.softplus
        return -softplus(y - eta) - softplus(eta - y)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        uniform = torch.rand(*sample_shape, *eta.shape, dtype=torch.float64)
        return (eta + torch.logit(uniform)).to(eta.dtype)

    def expected_y(self, eta: Tensor) -> Tensor:
        return eta

    def variance_of_y(self, eta: Tensor) -> Tensor:
        return torch.full_like(eta, torch.pi**2 / 3)

    def predictor(self, y: Tensor) -> Tensor:
        return y


def minus_softplus_of_minus(eta: Tensor) -> Tensor:
    """The negative numbers."""
    return -torch.nn.functional.softplus(-eta, threshold=40)


def half_more(eta: Tensor) -> Tensor:
    """A link that is steeper on the right, and keeps the loss of bits convex nowhere for sure."""
    return eta + 0.5 * torch.tanh(eta)


CANONICAL: list[ExponentialFamily] = [
    Gaussian(1.0),
    Gaussian(scale=0.3),
    Bernoulli(),
    Ising(),
    ContinuousBernoulli(),
    Poisson(),
    ZeroTruncatedPoisson(),
    Binomial(total_count=1),
    Binomial(total_count=16),
    Binomial(total_count=torch.tensor([3, 40, 1000])),
]
"""Canonical families on the whole real line; the last has three columns."""

WITH_LOG_LINK: list[Family] = [
    NegativeBinomial(0.4),
    NegativeBinomial(30.0),
    NegativeBinomial(torch.tensor([0.5, 2.0, 1e6], dtype=torch.float64)),
    Gamma(0.7),
    Gamma(torch.tensor([1.0, 2.5, 400.0], dtype=torch.float64)),
    families.Geometric(),
    Exponential(),
    Tweedie(1.3, 0.7),
    Tweedie(
        torch.tensor([1.1, 1.5, 1.9], dtype=torch.float64),
        torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64),
    ),
]

WITH_EFFECT: list[Family] = [
    PoissonLogNormal(0.6),
    PoissonLogNormal(torch.tensor([0.05, 0.4, 0.8], dtype=torch.float64)),
]
"""Counts with a normal effect in every entry."""

ORDINAL: list[Family] = [
    Ordinal(2, [0.3]),
    Ordinal(5, [-1.0, 0.0, 0.2, 2.0]),
    Ordinal(3, torch.tensor([[-1.0, 1.0], [0.0, 0.1], [1.0, 4.0]], dtype=torch.float64)),
]

TRANSFORMED: list[Family] = [
    Weibull(1.7),
    Weibull(torch.tensor([0.6, 1.0, 3.0], dtype=torch.float64)),
    Pareto(2.0),
    LogNormal(torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)),
]

CONVEX_LINKED: list[Family] = [
    Linked(Bernoulli(), Logit()),
    Bernoulli(link=Probit()),
    Bernoulli(link=ComplementaryLogLog()),
    Binomial(16, link=Probit()),
    Binomial(torch.tensor([3, 40, 1000]), link=ComplementaryLogLog()),
    Poisson(link=Softplus()),
    Linked(Poisson(), Log()),
    Gaussian(2.0, link=Identity()),
    Gaussian(torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64), link=Identity()),
    Linked(NegativeBinomial(3.0), Log()),
    Linked(Gamma(2.0), Log()),
    Linked(Geometric(), NaturalParameter(minus_softplus_of_minus)),
]

NOT_CONVEX: list[Family] = [
    Gaussian(1.0, link=Softplus()),
    Gaussian(torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64), link=Log()),
    Gaussian(0.5, link=ReLU()),
    Gaussian(1.0, link=Mean(torch.atan)),
    Bernoulli(link=NaturalParameter(half_more)),
    Poisson(link=Logit()),
    NegativeBinomial(2.0, link=Softplus()),
    Gamma(2.0, link=Softplus()),
    Linked(Ising(), NaturalParameter(torch.asinh)),
    BoseEinstein(order=1),
    BoseEinstein(order=2, spacing=0.5),
    Beta(3.0),
    Beta(torch.tensor([1.0, 8.0, 200.0], dtype=torch.float64)),
    ZeroInflatedPoisson(torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)),
    ZeroInflatedNegativeBinomial(2.0, 0.3),
]

ON_THE_HALF_LINE: list[Family] = [
    Poisson(link=Power(1)),
    Poisson(link=Power(0.5)),
    Gamma(2.0, link=Reciprocal()),
]
"""Families of positive linear predictors, for distributions alone."""

ON_THE_REAL_LINE: list[Family] = [
    *CANONICAL,
    *WITH_LOG_LINK,
    *WITH_EFFECT,
    *TRANSFORMED,
    *ORDINAL,
    *CONVEX_LINKED,
    *NOT_CONVEX,
    Logistic(),
]
"""Every family that a layer may have."""

ALL_FAMILIES: list[Family] = [*ON_THE_REAL_LINE, *ON_THE_HALF_LINE]


def one_of_each_kind(every: list[Family]) -> list[Family]:
    """The last family of each kind, whose parameters differ by column where there is one.

    Families of a kind differ in their parameters, or in what is under a link.
    """
    return list({kind_of(family): family for family in every}.values())


def one_of_each_way(every: list[Family]) -> list[Family]:
    """The first family of each way in which rows are solved.

    They serve for what knows a law by its derivatives alone. A family is canonical or not, has a
    link or not, a convex loss or not, and a known bound of the third derivative or none.
    """
    ways: dict[tuple[bool, ...], Family] = {}
    for family in every:
        way = (
            isinstance(family, ExponentialFamily),
            isinstance(family, Linked),
            family.is_convex,
            family.self_concordance is None,
        )
        ways.setdefault(way, family)
    return list(ways.values())


def kind_of(family: Family) -> tuple[object, ...]:
    """A class, or a link and whether the loss is convex under it."""
    if isinstance(family, Linked):
        return type(family.link), family.is_convex
    return (type(family),)
