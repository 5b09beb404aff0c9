"""The distribution of a family."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam import families
from pyro_expfam.distributions.amounts import Tweedie
from pyro_expfam.distributions.bunches import BoseEinstein
from pyro_expfam.distributions.categories import Categorical
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
from pyro_expfam.distributions.ordered_answers import Ordinal
from pyro_expfam.distributions.positive_numbers import LogNormal, Pareto, Weibull
from pyro_expfam.distributions.proportions import Beta
from pyro_expfam.distributions.real_numbers import (
    ContinuousBernoulli,
    Exponential,
    Gamma,
    Gaussian,
)
from pyro_expfam.distributions.two_values import Bernoulli, Ising
from pyro_expfam.distributions.zeros import (
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    ZeroTruncatedPoisson,
)
from pyro_expfam.families import ExponentialFamily, Family
from pyro_expfam.families.kinds import take

CLASSES: dict[type[Family], type[FamilyDistribution]] = {
    families.Gaussian: Gaussian,
    families.Bernoulli: Bernoulli,
    families.Ising: Ising,
    families.ContinuousBernoulli: ContinuousBernoulli,
    families.Poisson: Poisson,
    families.BoseEinstein: BoseEinstein,
    families.PoissonLogNormal: PoissonLogNormal,
    families.Binomial: Binomial,
    families.NegativeBinomial: NegativeBinomial,
    families.Gamma: Gamma,
    families.Geometric: Geometric,
    families.Exponential: Exponential,
    families.Weibull: Weibull,
    families.Ordinal: Ordinal,
    families.Pareto: Pareto,
    families.LogNormal: LogNormal,
    families.Tweedie: Tweedie,
    families.Beta: Beta,
    families.ZeroTruncatedPoisson: ZeroTruncatedPoisson,
    families.ZeroInflatedPoisson: ZeroInflatedPoisson,
    families.ZeroInflatedNegativeBinomial: ZeroInflatedNegativeBinomial,
}
"""The class of each family that has one of its own."""


def distribution(
    family: Family, natural_param: Tensor | float, validate_args: bool | None = None
) -> FamilyDistribution:
    """The Pyro distribution of a family, by its linear predictor.

    For a family of the package it is the class of the same name. For any other exponential family
    it is an :class:`ExponentialFamilyDistribution`, and for any other family, as one with a link, a
    :class:`FamilyDistribution`. For a mixed table it is a :class:`MixedDistribution`.

    Args:
        family: the family.
        natural_param: the natural parameter of an exponential family, or the linear predictor of
            any other family: a number or a tensor of any shape. Its shape is the batch shape unless
            a parameter of the family is a larger tensor.
        validate_args: whether to check the parameter and the observations; by default the setting
            of :func:`pyro.enable_validation`.

    Raises:
        ValueError: if the class of the distribution raises it.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families
        >>> distributions.distribution(families.Gaussian(scale=2.0), torch.zeros(500, 50))
        Gaussian(scale: 2.0, natural_param: torch.Size([500, 50]))
    """
    if isinstance(family, families.Categorical):
        return Categorical.of(family, torch.as_tensor(natural_param), validate_args)
    if isinstance(family, families.Columns):
        eta = torch.as_tensor(natural_param)
        parts = [
            distribution(part.family, take(eta, part.predictors), validate_args)
            for part in family.parts
        ]
        return MixedDistribution(family, eta, parts, validate_args)
    is_exponential = isinstance(family, ExponentialFamily)
    generic = ExponentialFamilyDistribution if is_exponential else FamilyDistribution
    named = CLASSES.get(type(family), generic)
    # Not the constructor of the class, since it would build and check the family once more.
    law = named.__new__(named)
    FamilyDistribution.__init__(law, family, natural_param, validate_args)
    return law
