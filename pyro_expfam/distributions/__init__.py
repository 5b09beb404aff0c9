"""Pyro distributions over the families, by linear predictor."""

from pyro_expfam.distributions.amounts import Tweedie
from pyro_expfam.distributions.bunches import BoseEinstein
from pyro_expfam.distributions.categories import Categorical, Multinomial
from pyro_expfam.distributions.counts import (
    Binomial,
    Geometric,
    NegativeBinomial,
    Poisson,
    PoissonLogNormal,
)
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import FamilyDistribution
from pyro_expfam.distributions.mixed import MixedDistribution
from pyro_expfam.distributions.of_family import distribution
from pyro_expfam.distributions.ordered_answers import Ordinal
from pyro_expfam.distributions.positive_numbers import LogNormal, Pareto, Weibull
from pyro_expfam.distributions.proportions import Beta
from pyro_expfam.distributions.real_numbers import ContinuousBernoulli, Exponential, Gamma, Gaussian
from pyro_expfam.distributions.two_values import Bernoulli, Ising
from pyro_expfam.distributions.zeros import (
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    ZeroTruncatedPoisson,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "BoseEinstein",
    "Categorical",
    "ContinuousBernoulli",
    "Exponential",
    "ExponentialFamilyDistribution",
    "FamilyDistribution",
    "Gamma",
    "Gaussian",
    "Geometric",
    "Ising",
    "LogNormal",
    "MixedDistribution",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "Pareto",
    "Poisson",
    "PoissonLogNormal",
    "Tweedie",
    "Weibull",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "ZeroTruncatedPoisson",
    "distribution",
]
