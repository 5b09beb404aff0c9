"""The Laplace posterior against Hamiltonian Monte Carlo on the same Pyro model."""

from typing import NamedTuple

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 4, 50, 2
NUM_DRAWS, NUM_WARMUP, NUM_COPIES = 250, 150, 40

FAMILIES = (
    pef.families.Bernoulli(),
    pef.families.Poisson(),
    pef.families.NegativeBinomial(2.0),
    pef.families.Binomial(total_count=16),
    pef.families.ContinuousBernoulli(),
    pef.families.Bernoulli(link=pef.links.Probit()),
    pef.families.Bernoulli(link=pef.links.ComplementaryLogLog()),
    pef.families.Gamma(2.0),
    pef.families.Categorical(3),
    pef.families.Ordinal(5, [-1.5, -0.5, 0.5, 1.5]),
    pef.families.Beta(5.0),
    pef.families.Multinomial(100),
    pef.families.Columns(
        [
            (slice(0, 20), pef.families.Bernoulli()),
            (slice(20, 40), pef.families.Poisson()),
            (slice(40, 50), pef.families.Gaussian(1.0)),
        ]
    ),
)
COSTLY = (pef.families.Tweedie(1.5, 1.0), pef.families.PoissonLogNormal(0.5))
"""Families whose densities are sums of many terms, with fewer draws."""
FEWER_COPIES = 10


class Moments(NamedTuple):
    """Means and deviations of all latents ``(N, l)``, with their Monte Carlo errors."""

    mean: Tensor
    deviation: Tensor
    mean_error: Tensor
    deviation_error: Tensor


def moments_by_nuts(model, y, num_copies) -> Moments:
    """Posterior moments from draws of a chain of many copies of the table.

    Rows are independent given the loading, so that the copies are as many chains of each row.
    """
    mcmc = MCMC(NUTS(model), num_samples=NUM_DRAWS, warmup_steps=NUM_WARMUP, disable_progbar=True)
    mcmc.run(y.repeat(num_copies, 1))
    draws = mcmc.get_samples()["z"].unflatten(1, (num_copies, len(y)))
    mean, deviation = draws.mean((0, 1)), draws.flatten(0, 1).std(0)
    squares = (draws - mean).square()
    return Moments(
        mean, deviation, standard_error(draws), standard_error(squares) / (2 * deviation)
    )


def standard_error(draws: Tensor) -> Tensor:
    """The Monte Carlo error of means of ``(draws, chains, ...)``."""
    worth = effective_sample_size(draws, chain_dim=1, sample_dim=0)
    return draws.flatten(0, 1).std(0) / worth.sqrt()


def moments_by_grid(model, y) -> tuple[Tensor, Tensor]:
    """Posterior means and deviations by sums over a grid of both latents."""
    axis = torch.linspace(-5, 5, 101)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        eta = z @ model.loading.T + model.intercept
        encoded = model.family.encode(y).unsqueeze(1)
        log_joint = model.family.log_prob(encoded, eta).sum(-1) - 0.5 * z.square().sum(-1)
        weights = log_joint.softmax(-1)
        mean = weights @ z
        return mean, (weights @ z.square() - mean.square()).sqrt()


def model_and_table(family):
    """A model of known coefficients, and rows drawn from it."""
    torch.set_default_dtype(torch.float64)
    model = pef.ExpFamPCA(
        family, NUM_FEATURES, LATENT_DIM, loading_scale=None, intercept_scale=None
    )
    with torch.no_grad():
        model.loading.copy_(0.5 * torch.randn_like(model.loading))
        model.intercept.copy_(0.3 * torch.randn_like(model.intercept))
    return model, poutine.trace(model).get_trace(num_rows=NUM_ROWS).nodes["y"]["value"]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_means_and_deviations_agree_with_a_grid(family):
    model, y = model_and_table(family)
    mean, deviation = moments_by_grid(model, y)
    guide = pef.LaplaceGuide(model)
    guide(y)
    laplace = guide.posterior(y)
    assert ((laplace.mean - mean).abs() <= 0.2 * deviation).all()
    assert ((laplace.stddev - deviation).abs() <= 0.07 * deviation).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *COSTLY], ids=str)
def test_means_and_deviations_agree_with_nuts(family):
    # Validation of every density takes a third of the time.
    pyro.enable_validation(False)
    model, y = model_and_table(family)
    num_copies = FEWER_COPIES if family in COSTLY else NUM_COPIES
    exact = moments_by_nuts(model, y, num_copies)

    guide = pef.LaplaceGuide(model)
    guide(y)
    laplace = guide.posterior(y)
    # The Monte Carlo error is small beside what is allowed ...
    fewer = (NUM_COPIES / num_copies) ** 0.5
    assert (exact.mean_error <= 0.01 * fewer * exact.deviation).all()
    assert (exact.deviation_error <= 0.015 * fewer * exact.deviation).all()
    # ... and included in it.
    assert ((laplace.mean - exact.mean).abs() <= 0.2 * exact.deviation).all()
    assert ((laplace.stddev - exact.deviation).abs() <= 0.07 * exact.deviation).all()
