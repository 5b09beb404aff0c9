"""The settings of the validation: tables drawn from the model, with known loadings."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import LatentProblem
from pyro_expfam.families import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Columns,
    ContinuousBernoulli,
    Family,
    Gamma,
    Gaussian,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Tweedie,
)
from pyro_expfam.links import ComplementaryLogLog, Probit

FAMILIES: dict[str, Family] = {
    "Bernoulli": Bernoulli(),
    "Poisson": Poisson(),
    "Binomial(16)": Binomial(16),
    "continuous Bernoulli": ContinuousBernoulli(),
    "Gaussian": Gaussian(1.0),
}
OTHER_LAWS: dict[str, Family] = {
    "probit": Bernoulli(link=Probit()),
    "complementary log-log": Bernoulli(link=ComplementaryLogLog()),
    "negative binomial, size 2": NegativeBinomial(2.0),
    "gamma, shape 2": Gamma(2.0),
    "categories of three levels": Categorical(3),
}
"""Laws that are no canonical families, which the suite looks at and the page does not."""

FURTHER_LAWS: dict[str, Family] = {
    "Tweedie, power 1.5": Tweedie(1.5, 1.0),
    "ordinal, five levels": Ordinal(5, cut_points=[-1.5, -0.5, 0.5, 1.5]),
    "beta, precision 5": Beta(5.0),
    "multinomial, total 100": Multinomial(100),
}
"""Laws of one kind of column, which the page has a section for."""

MIXED = "bits, counts and real numbers"
"""A table of which a third of the columns each are bits, Poisson counts and real numbers."""

NUM_FEATURES = (30, 100)
LATENT_DIMS = (2, 5)
SEED = 20230611


class Setting(NamedTuple):
    """A kind of table, of which ``seed`` draws one.

    Loadings have variance ``loading_scale ** 2``, by default one over the number of latents.
    """

    family: str
    num_features: int
    latent_dim: int
    intercept: float = 0.0
    loading_scale: float | None = None
    seed: int = SEED


class Simulation(NamedTuple):
    """A table with the latents that it was drawn from."""

    problem: LatentProblem
    z: Tensor


SETTINGS = [
    Setting(family, num_features, latent_dim)
    for family in FAMILIES
    for num_features in NUM_FEATURES
    for latent_dim in LATENT_DIMS
]

OTHER_SETTINGS = [
    Setting(law, num_features, latent_dim)
    for law in OTHER_LAWS
    for num_features in NUM_FEATURES
    for latent_dim in LATENT_DIMS
]

FURTHER_SETTINGS = [
    Setting(law, num_features, latent_dim)
    for law in (*FURTHER_LAWS, MIXED)
    for num_features in NUM_FEATURES
    for latent_dim in LATENT_DIMS
]

FEW_ANSWERS = Setting("ordinal, five levels", 3, 2, intercept=-3.0, loading_scale=4.0)
FEW_SHARES = Setting("beta, precision 5", 3, 2, intercept=-1.0, loading_scale=2.0)
FEW_OF_EACH = Setting(MIXED, 3, 2, intercept=-2.0, loading_scale=3.0)
FEW_COLUMNS = [FEW_ANSWERS, FEW_SHARES, FEW_OF_EACH]
"""Three columns with large loadings: posteriors far from normal."""

HARDEST = Setting("Bernoulli", 30, 5)
"""Of the settings, the one whose evidence errs most to first order."""

OTHER_LOADINGS = [HARDEST._replace(seed=SEED + shift) for shift in (1, 2)]
"""The same kind of table with loadings drawn anew."""

RARE_EVENTS = Setting("Bernoulli", 4, 2, intercept=-3.0, loading_scale=4.0)
"""Few features that are seldom 1: posteriors far from normal."""


def simulate(setting: Setting, num_rows: int) -> Simulation:
    """Draws loadings, latents and a table in float64, the same ones each time."""
    generator = torch.Generator().manual_seed(setting.seed)
    draw = {"dtype": torch.float64, "generator": generator}
    family, latent_dim = law_of(setting), setting.latent_dim
    scale = setting.loading_scale or latent_dim**-0.5
    num_predictors = setting.num_features * family.predictors_per_column
    W = scale * torch.randn(num_predictors, latent_dim, **draw)
    b = torch.full((num_predictors,), setting.intercept, dtype=torch.float64)
    z = torch.randn(num_rows, latent_dim, **draw)
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        y = family.sample(z @ W.T + b)
    return Simulation(LatentProblem(family, y, W, b, torch.tensor(1.0).double()), z)


def law_of(setting: Setting) -> Family:
    """The family of a setting."""
    if setting.family != MIXED:
        return (FAMILIES | OTHER_LAWS | FURTHER_LAWS)[setting.family]
    third = setting.num_features // 3
    laws = [(Bernoulli(), third), (Poisson(), third)]
    return Columns.side_by_side([*laws, (Gaussian(1.0), setting.num_features - 2 * third)])
