"""Posteriors of the coefficients of small tables with one latent, and their exact moments."""

import math
from typing import NamedTuple

import torch

from pyro_expfam.coefficients import posterior_at_maximum
from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import make_problem

SOLVER = FisherScoring()


def random_table(family, num_rows, num_features, size=0.6, latent_dim=1):
    """Observations, with the loading and the intercept that they were drawn with."""
    W = size * torch.randn(num_features, latent_dim, dtype=torch.float64)
    b = 0.5 + 0.5 * torch.randn(num_features, dtype=torch.float64)
    z = torch.randn(num_rows, latent_dim, dtype=torch.float64)
    return family.decode(family.sample(z @ W.T + b)), W, b


def prior_precision(intercept_scale, latent_dim=1):
    return torch.tensor([1.0] * latent_dim + [intercept_scale**-2], dtype=torch.float64)


def posterior_of(family, y, W, b, prior):
    """The problem at the maximum, its root, and the posterior there, from some coefficients."""
    problem = make_problem(family, y, W, b, 1.0, None, None)
    return posterior_at_maximum(problem, prior, SOLVER, torch.ones(len(prior), dtype=torch.bool))


class Exact(NamedTuple):
    """Weighted draws of the exact posterior, ``(S, d, 2)`` and ``(S,)``."""

    draws: torch.Tensor
    weights: torch.Tensor

    def mean(self, of):
        return torch.tensordot(self.weights, of, 1)

    def deviation(self, of):
        return self.mean((of - self.mean(of)).square()).sqrt()

    @property
    def effective_size(self):
        return float(1 / self.weights.square().sum())


def exact_posterior(family, y, prior, posterior, num_draws=4_000):
    """Draws by importance sampling from a Student t around the mode, on its side of zero.

    The latents are integrated out by the trapezoidal rule.
    """
    noise = torch.randn(num_draws, posterior.mode.numel(), dtype=torch.float64)
    degrees, width = 4.0, 1.2
    chi = torch.distributions.Chi2(degrees).sample((num_draws, 1)).double()
    noise = noise * (degrees / chi).sqrt()
    factor = torch.linalg.cholesky(posterior.covariance())
    draws = posterior.mode + width * (noise @ factor.T).view(num_draws, *posterior.mode.shape)
    log_proposal = torch.log1p(noise.square().sum(-1) / degrees)
    log_proposal = -0.5 * (degrees + noise.shape[1]) * log_proposal
    log_joint = -0.5 * (prior * draws.square()).sum((-2, -1))
    for part in torch.arange(num_draws).split(1_000):
        log_joint[part] += log_likelihood(family, y, draws[part])
    same_side = (draws[..., 0] * posterior.mode[:, 0]).sum(-1) > 0
    log_weights = (log_joint - log_proposal).where(same_side, -math.inf)
    return Exact(draws, log_weights.softmax(0))


def log_likelihood(family, y, coefficients):
    """The log evidence of a table under coefficients ``(S, d, 2)``, up to a constant."""
    z = torch.linspace(-5.0, 5.0, 61, dtype=torch.float64)
    eta = coefficients[:, None, :, 0] * z[:, None] + coefficients[:, None, :, 1]
    # Few columns of bits have few different rows.
    rows, counts = family.sufficient_statistic(y).unique(dim=0, return_counts=True)
    log_law = torch.einsum("skd,nd->skn", eta, rows)
    log_law = log_law - family.log_partition(eta).sum(-1)[..., None]
    return (log_law - 0.5 * z.square()[:, None]).logsumexp(1) @ counts.double()
