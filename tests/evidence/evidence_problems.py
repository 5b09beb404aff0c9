"""Random problems, and their evidence by numerical integration and by importance sampling."""

import math

import numpy as np
import torch
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
SKEWED = FAMILIES[1:]
"""Families whose posteriors are not normal."""


def random_problem(
    family,
    latent_dim=2,
    num_rows=20,
    num_features=12,
    precision=1.0,
    loading_scale=None,
    dtype=torch.float64,
) -> LatentProblem:
    """A table drawn from the model, with loadings of variance ``1 / l`` by default."""
    scale = latent_dim**-0.5 if loading_scale is None else loading_scale
    W = scale * torch.randn(num_features, latent_dim, dtype=dtype)
    b = 0.3 * torch.randn(num_features, dtype=dtype)
    z = torch.randn(num_rows, latent_dim, dtype=dtype) * precision**-0.5
    y = family.sample(z @ W.T + b)
    return LatentProblem(family, y, W, b, torch.tensor(precision, dtype=dtype))


def root(problem) -> Tensor:
    return solve(problem, FisherScoring()).value


def log_joint(problem, z) -> Tensor:
    """The log density of observations and latents ``(..., N, l)``, with the entry weights."""
    entries = problem.weighted(problem.family.log_prob(problem.y, problem.predictor(z)))
    prior = torch.distributions.Normal(0.0, problem.precision**-0.5)
    return entries.sum(-1) + prior.log_prob(z).sum(-1)


def quadrature(problem, num_nodes=40) -> tuple[Tensor, Tensor, Tensor]:
    """Log evidence, posterior mean and covariance by Gauss-Hermite quadrature around the root."""
    size = problem.latent_dim
    nodes, weights = (torch.tensor(x) for x in np.polynomial.hermite.hermgauss(num_nodes))
    grid = torch.cartesian_prod(*[nodes] * size).reshape(-1, size)
    log_weights = torch.cartesian_prod(*[weights.log()] * size).reshape(-1, size).sum(-1)
    centre = root(problem)
    factor = torch.linalg.cholesky(torch.linalg.inv(problem.information(centre)))
    z = centre + math.sqrt(2) * torch.einsum("sij,qj->qsi", factor, grid)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + size * math.log(2) / 2
    log_terms = log_joint(problem, z) + (log_weights + grid.square().sum(-1))[:, None] + log_det
    probability = log_terms.softmax(0)[..., None]
    mean = (probability * z).sum(0)
    covariance = torch.einsum("qsi,qsj->sij", probability * (z - mean), z - mean)
    return log_terms.logsumexp(0), mean, covariance


def importance_sampling(problem, num_draws=20_000) -> Tensor:
    """The log evidence from draws of the Laplace posterior with a heavier tail."""
    centre = root(problem)
    factor = torch.linalg.cholesky(torch.linalg.inv(problem.information(centre)))
    proposal = torch.distributions.StudentT(torch.tensor(8.0).double())
    total = []
    for s in range(problem.num_rows):
        noise = proposal.sample((num_draws, problem.latent_dim))
        log_density = proposal.log_prob(noise).sum(-1)
        log_density = log_density - factor[s].diagonal().log().sum()
        z = (centre[s] + noise @ factor[s].T)[:, None]
        log_ratio = log_joint(problem.rows(slice(s, s + 1)), z)[:, 0] - log_density
        total.append(log_ratio.logsumexp(0) - math.log(num_draws))
    return torch.stack(total)
