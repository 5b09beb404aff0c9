"""Random tables of the paper: observations of known latents under random loadings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from ground_truth import some_latents
from torch import Tensor

import pyro_expfam as pef

NUM_FEATURES = 50
LATENT_DIM = 2

FAMILIES: dict[str, pef.families.Family] = {
    "Gaussian": pef.families.Gaussian(scale=1.0),
    "Bernoulli": pef.families.Bernoulli(),
    "Poisson": pef.families.Poisson(),
    "Ising": pef.families.Ising(),
    "Continuous Bernoulli": pef.families.ContinuousBernoulli(),
    "Binomial": pef.families.Binomial(10),
    "Negative binomial": pef.families.NegativeBinomial(5.0),
}
"""The families of the paper's figure 3, and four more.

The Gaussian has variance 1, so that its natural parameter is its mean. The binomial counts 10
trials, and the negative binomial has size 5 and the logarithm of its mean as linear predictor.
"""


class RandomTable(NamedTuple):
    """Observations ``y`` ``(N, d)`` of latents ``z`` ``(N, l)`` under a loading ``(d, l)``."""

    family: pef.families.Family
    y: Tensor
    z: Tensor
    loading: Tensor


def random_table(name: str, num_rows: int, seed: int) -> RandomTable:
    """A table of one family, the same for the same seed.

    Entries of the loading are independent normal with variance 1/2, and the linear predictors are
    ``W z``. Tables of different families with one seed have the same loading and latents.
    """
    torch.manual_seed(seed)
    family = FAMILIES[name]
    loading = 0.5**0.5 * torch.randn(NUM_FEATURES, LATENT_DIM)
    z = some_latents(num_rows)
    return RandomTable(family, family.sample(z @ loading.T), z, loading)
