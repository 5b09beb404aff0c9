"""Pyro distributions over the families, by linear predictor."""

from pyro_expfam.distributions.categories import Categorical
from pyro_expfam.distributions.counts import Binomial, NegativeBinomial, Poisson
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import FamilyDistribution
from pyro_expfam.distributions.of_family import distribution
from pyro_expfam.distributions.real_numbers import ContinuousBernoulli, Gamma, Gaussian
from pyro_expfam.distributions.two_values import Bernoulli, Ising

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "ExponentialFamilyDistribution",
    "FamilyDistribution",
    "Gamma",
    "Gaussian",
    "Ising",
    "NegativeBinomial",
    "Poisson",
    "distribution",
]
