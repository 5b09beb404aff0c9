"""Random tables of every family for the tests of the layer."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam import families
from pyro_expfam.deq import LatentProblem

FAMILIES = (
    families.Gaussian(scale=0.7),
    families.Bernoulli(),
    families.Ising(),
    families.ContinuousBernoulli(),
    families.Poisson(),
    families.Binomial(total_count=16),
)


class Table(NamedTuple):
    """A simulated table with the parameters that it came from."""

    family: families.Family
    y: Tensor
    W: Tensor
    b: Tensor
    precision: float

    def problem(self, **fields) -> LatentProblem:
        """The problem of the layer."""
        precision = torch.as_tensor(self.precision, dtype=self.W.dtype)
        return LatentProblem(self.family, self.y, self.W, self.b, precision, **fields)


def random_table(
    family: families.Family,
    num_rows: int = 20,
    num_features: int = 12,
    latent_dim: int = 2,
    weight_scale: float = 0.7,
    precision: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Table:
    """A table drawn from the model, with natural parameters kept in [-12, 12]."""
    W = weight_scale * torch.randn(num_features, latent_dim, dtype=dtype)
    b = 0.5 * torch.randn(num_features, dtype=dtype)
    z = torch.randn(num_rows, latent_dim, dtype=dtype) * precision**-0.5
    y = family.sample((z @ W.T + b).clamp(-12, 12))
    return Table(family, y, W, b, precision)


def posterior_distance(problem: LatentProblem, z: Tensor) -> Tensor:
    """The score at ``z`` in the norm of the inverse information, in float64."""
    exact = problem.double()
    score, information = exact.score(z.double()), exact.information(z.double())
    return (score * torch.linalg.solve(information, score)).sum(-1).clamp(min=0).sqrt()
