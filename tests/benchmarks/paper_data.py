"""The paper's synthetic data (appendix C), one table for each family."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.families import Bernoulli, Family, Gaussian, Poisson

NUM_FEATURES = 50
LATENT_DIM = 2
PRECISION = 0.1
GRID_SIZE = 316

FAMILIES: dict[str, Family] = {
    "Bernoulli": Bernoulli(),
    "Gaussian": Gaussian(scale=1.0),
    "Poisson": Poisson(),
}


class Table(NamedTuple):
    """Observations ``(N, d)`` of a family, drawn with the loading ``(d, l)``."""

    family: Family
    y: Tensor
    loading: Tensor


def paper_latents() -> Tensor:
    """The points of a grid inside a disc, a smaller disc or a diamond: 42,453 rows."""
    side = torch.linspace(-5, 5, GRID_SIZE)
    points = torch.cartesian_prod(side, side)
    large_disc = (points - 2).norm(dim=1) < 3
    small_disc = (points + 3).norm(dim=1) < 2
    diamond = (points - torch.tensor([4.0, -4.0])).abs().sum(1) < 1
    return points[large_disc | small_disc | diamond]


def paper_table(name: str) -> Table:
    """The table of the family ``name``; the same at every call."""
    torch.manual_seed(20230611)
    family = FAMILIES[name]
    loading = 0.5**0.5 * torch.randn(NUM_FEATURES, LATENT_DIM)
    return Table(family, family.sample(paper_latents() @ loading.T), loading)
