"""The laws of draws against means, variances and reference distributions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Family,
    Gaussian,
    Ising,
    Poisson,
)

FAMILIES = [
    Gaussian(scale=2.0),
    Bernoulli(),
    Ising(),
    ContinuousBernoulli(),
    Poisson(),
    Binomial(total_count=23),
    Binomial(total_count=1_000_000),
]
DTYPES = [torch.float32, torch.float64]
NUM_DRAWS = 40_000
LEAST_P_VALUE = 1e-4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20240611)


def draws(family: Family, eta: float, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return family.sample(torch.tensor(eta, dtype=dtype), (NUM_DRAWS,)).double().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_mean_and_variance_of_draws(family, dtype):
    eta = torch.tensor([-6.0, -1.0, -1e-4, 0.0, 0.5, 3.0], dtype=dtype)
    statistic = family.sufficient_statistic(family.sample(eta, (NUM_DRAWS,))).double()
    eta = eta.double()
    variance, fourth = family.variance(eta), family.fourth_cumulant(eta)
    deviation = statistic - family.mean(eta)
    mean_error = (variance / NUM_DRAWS).sqrt()
    variance_error = ((fourth + 2 * variance.square()) / NUM_DRAWS).sqrt()
    assert bool((deviation.mean(0).abs() < 4.5 * mean_error).all())
    # The square of a symmetric binary deviation is constant.
    excess = deviation.square().mean(0) - variance
    assert bool((excess.abs() < 4.5 * variance_error + 1e-3 * variance).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rate", [0.02, 3.0, 9.9, 10.1, 400.0])
def test_poisson_draws_follow_scipy(rate, dtype):
    y = draws(Poisson(), np.log(rate), dtype)
    assert follows_discrete(y, scipy.stats.poisson(rate))


@pytest.mark.parametrize(
    ("rate", "dtype"),
    [
        (1e6, torch.float32),
        (1e6, torch.float64),
        (9e7, torch.float32),
        (9e7, torch.float64),
        (3e8, torch.float32),
        (3e8, torch.float64),
        (1e12, torch.float64),
    ],
)
def test_poisson_draws_of_large_rates_follow_scipy(rate, dtype):
    eta = torch.tensor(np.log(rate), dtype=dtype)
    y = Poisson().sample(eta, (NUM_DRAWS,)).double().numpy()
    law = scipy.stats.poisson(float(eta.double().exp()))
    assert scipy.stats.kstest(y, law.cdf).pvalue > LEAST_P_VALUE


def test_poisson_draws_of_extreme_rates():
    y = Poisson().sample(torch.tensor([-80.0, -30.0, 50.0, 80.0]), (1000,))
    assert bool((y[:, :2] == 0).all())
    torch.testing.assert_close(y[:, 2:].mean(0), torch.tensor([50.0, 80.0]).exp())
    assert bool((y[:, 2:] > 0).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eta", [-9.0, -3.0, 0.0, 0.7, 8.0])
@pytest.mark.parametrize("total", [1, 5, 23, 1000])
def test_binomial_draws_follow_scipy(total, eta, dtype):
    y = draws(Binomial(total), eta, dtype)
    assert follows_discrete(y, scipy.stats.binom(total, 1 / (1 + np.exp(-eta))))


def test_binomial_draws_by_feature():
    family = Binomial(torch.tensor([1, 10, 100]))
    y = family.sample(torch.tensor(0.0), (NUM_DRAWS,))
    assert y.shape == (NUM_DRAWS, 3)
    assert y.max(0).values[0] == 1
    correlation = torch.corrcoef(y.T)[torch.triu_indices(3, 3, 1).unbind()]
    assert correlation.abs().max() < 4.5 / NUM_DRAWS**0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eta", [-80.0, -5.0, -1e-3, -1e-30, 0.0, 1e-6, 0.9, 12.0, 80.0])
def test_continuous_bernoulli_draws_follow_their_distribution(eta, dtype):
    def cdf(y: np.ndarray) -> np.ndarray:
        if eta == 0:
            return y
        # From the likelier end, so that no exponential overflows.
        size, near = abs(eta), y if eta < 0 else 1 - y
        share = np.expm1(-size * near) / np.expm1(-size)
        return share if eta < 0 else 1 - share

    y = draws(ContinuousBernoulli(), eta, dtype)
    assert ((y >= 0) & (y <= 1)).all()
    assert scipy.stats.kstest(y, cdf).pvalue > LEAST_P_VALUE


def test_gaussian_draws_follow_scipy():
    y = draws(Gaussian(scale=2.0), 1.5)
    assert scipy.stats.kstest(y, scipy.stats.norm(3.0, 2.0).cdf).pvalue > LEAST_P_VALUE


def test_gaussian_draws_of_features_are_independent():
    family = Gaussian(scale=torch.tensor([1.0, 2.0]))
    y = family.sample(torch.tensor(0.0), (NUM_DRAWS,))
    assert y.shape == (NUM_DRAWS, 2)
    assert torch.corrcoef(y.T)[0, 1].abs() < 4.5 / NUM_DRAWS**0.5


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_draws_carry_no_gradient_and_repeat_with_the_seed(family):
    eta = torch.linspace(-2, 2, 5).requires_grad_()
    first = family.sample(eta, (3,))
    torch.manual_seed(20240611)
    again = family.sample(eta, torch.Size([3]))
    assert not first.requires_grad
    assert torch.equal(first, again)


def follows_discrete(y: np.ndarray, law: scipy.stats.rv_discrete) -> bool:
    """Whether a chi-square test over cells of at least ten expected draws does not reject."""
    lowest, highest = int(law.ppf(1e-3)), int(law.ppf(1 - 1e-3))
    width = max(1, (highest - lowest) // 30)
    edges = np.arange(lowest, highest + width, width)
    probabilities = np.diff(law.cdf(edges), prepend=0, append=1)
    counts = np.bincount(np.searchsorted(edges, y), minlength=len(edges) + 1)
    likely = probabilities * len(y) >= 10
    observed = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(probabilities[likely], probabilities[~likely].sum()) * len(y)
    if expected[-1] < 10:
        merge = expected[:-1].argmax()
        observed[merge] += observed[-1]
        expected[merge] += expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) == 1:
        return bool(observed[0] == len(y))
    return scipy.stats.chisquare(observed, expected).pvalue > LEAST_P_VALUE
