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

FAMILIES = (pef.families.Bernoulli(),)
SLOWLY = (
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


@pytest.mark.parametrize(
    "family",
    [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in (*SLOWLY, *COSTLY))],
    ids=str,
)
def test_means_and_deviations_agree_with_nuts(family):
    torch.set_default_dtype(torch.float64)
    # Validation of every density takes a third of the time.
    pyro.enable_validation(False)
    model = pef.ExpFamPCA(
        family, NUM_FEATURES, LATENT_DIM, loading_scale=None, intercept_scale=None
    )
    with torch.no_grad():
        model.loading.copy_(0.5 * torch.randn_like(model.loading))
        model.intercept.copy_(0.3 * torch.randn_like(model.intercept))
    y = poutine.trace(model).get_trace(num_rows=NUM_ROWS).nodes["y"]["value"]
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
