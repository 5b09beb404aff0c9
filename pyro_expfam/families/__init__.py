"""Exponential families: what an observation is, and how it follows from a natural parameter.

A family is a small immutable value of plain torch functions, with no latents, no layers and no
Pyro in it.

Example:
    >>> import torch
    >>> from pyro_expfam import families
    >>> family = families.Poisson()
    >>> eta = torch.tensor([0.0, 1.0])
    >>> family.mean(eta)
    tensor([1.0000, 2.7183])
    >>> family.log_prob(torch.tensor([1.0, 2.0]), eta)
    tensor([-1.0000, -1.4114])
"""

from pyro_expfam.families.activation_family import (
    ActivationFamily,
    NotAdmissibleError,
    from_activation,
)
from pyro_expfam.families.admissibility import Admissibility, BaseMeasure, check_admissible
from pyro_expfam.families.base import Family
from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.beta import Beta
from pyro_expfam.families.binomial import Binomial
from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.categorical import Categorical
from pyro_expfam.families.columns import Columns
from pyro_expfam.families.continuous_bernoulli import ContinuousBernoulli
from pyro_expfam.families.entries import Entries
from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.exponential_law import Exponential
from pyro_expfam.families.gamma import Gamma
from pyro_expfam.families.gaussian import Gaussian
from pyro_expfam.families.geometric import Geometric
from pyro_expfam.families.ising import Ising
from pyro_expfam.families.lattice import Lattice
from pyro_expfam.families.linked import Linked
from pyro_expfam.families.log_normal import LogNormal
from pyro_expfam.families.negative_binomial import NegativeBinomial
from pyro_expfam.families.ordinal import Ordinal
from pyro_expfam.families.pareto_law import Pareto
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.poisson_log_normal import PoissonLogNormal
from pyro_expfam.families.transformed import Transformed
from pyro_expfam.families.tweedie import Tweedie
from pyro_expfam.families.weibull import Weibull
from pyro_expfam.families.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyro_expfam.families.zero_truncated_poisson import ZeroTruncatedPoisson

__all__ = [
    "ActivationFamily",
    "Admissibility",
    "BaseMeasure",
    "Bernoulli",
    "Beta",
    "Binomial",
    "CanonicalForm",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "Entries",
    "Exponential",
    "ExponentialFamily",
    "Family",
    "Gamma",
    "Gaussian",
    "Geometric",
    "Ising",
    "Lattice",
    "Linked",
    "LogNormal",
    "NegativeBinomial",
    "NotAdmissibleError",
    "Ordinal",
    "Pareto",
    "Poisson",
    "PoissonLogNormal",
    "Transformed",
    "Tweedie",
    "Weibull",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "ZeroTruncatedPoisson",
    "check_admissible",
    "from_activation",
]
