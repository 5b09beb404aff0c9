"""The negative binomial family against SciPy, mpmath, and its identities."""

from __future__ import annotations

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_expfam.families import Bernoulli, Binomial, NegativeBinomial, Poisson

ETA = torch.linspace(-30, 30, 61, dtype=torch.float64)
COUNTS = torch.tensor([0.0, 1.0, 2.0, 30.0, 4_000.0], dtype=torch.float64)[:, None]
DERIVATIVES = ("score", "information", "third_derivative", "fourth_derivative")


def exact_log_prob(y: float, eta: float, size: float) -> float:
    with mpmath.workdps(60):
        y, eta, r = mpmath.mpf(y), mpmath.mpf(eta), mpmath.mpf(size)
        mean = mpmath.exp(eta)
        constant = mpmath.loggamma(y + r) - mpmath.loggamma(r) - mpmath.loggamma(y + 1)
        return float(constant + r * mpmath.log(r / (r + mean)) + y * mpmath.log(mean / (r + mean)))


@pytest.mark.parametrize("size", [0.05, 1.0, 7.3, 400.0])
def test_log_prob_is_that_of_scipy(size):
    eta = ETA[20:41]
    ours = NegativeBinomial(size).log_prob(COUNTS, eta)
    theirs = scipy.stats.nbinom(size, size / (size + eta.exp().numpy())).logpmf(COUNTS.numpy())
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [2.0**-10, 0.25, 8.0, 2.0**20, 2.0**45])
def test_log_prob_does_not_cancel(size, dtype):
    family, tolerance = NegativeBinomial(size), 4 * torch.finfo(dtype).eps
    for eta in (-30.0, -2.0, 0.5, 9.0, 14.0, 30.0):
        for y in (0.0, 1.0, 300.0, 8192.0, 1_202_688.0, 2.0**30):
            found = family.log_prob(torch.tensor(y, dtype=dtype), torch.tensor(eta, dtype=dtype))
            expected = exact_log_prob(y, eta, size)
            wanted = max(tolerance, 1e-13) * (1 + abs(expected))
            assert abs(float(found) - expected) <= wanted, (eta, y)


@pytest.mark.parametrize("size", [1e-8, 0.05, 3.0, 2.0**20, 2.0**45])
def test_counts_of_tables_are_looked_up_without_loss(size):
    torch.manual_seed(0)
    sizes = size * (0.5 + torch.rand(4, dtype=torch.float64))
    y = torch.poisson(torch.rand(100, 4, dtype=torch.float64) * 100)
    y[:60] = y[:60].clamp(max=4)
    eta = 5 * torch.randn(100, 4, dtype=torch.float64)
    # A row at a time there is nothing to look up.
    found = NegativeBinomial(sizes).log_prob(y, eta)
    by_row = [NegativeBinomial(sizes).log_prob(*pair) for pair in zip(y, eta, strict=True)]
    torch.testing.assert_close(found, torch.stack(by_row), rtol=1e-12, atol=1e-12)
    # No count is certain at a mean of zero, and any other impossible.
    edge = NegativeBinomial(sizes).log_prob(
        (y[:64] > 1).double(), torch.full_like(eta[:64], -math.inf)
    )
    assert bool((edge == torch.where(y[:64] > 1, -math.inf, 0.0)).all())


def test_a_large_size_is_a_poisson():
    family, poisson = NegativeBinomial(1e15), Poisson()
    eta = ETA[:40]  # the excess of the variance is mean / size
    for name in ("loss", *DERIVATIVES):
        found, expected = (getattr(x, name)(eta, COUNTS) for x in (family, poisson))
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        family.log_prob(COUNTS, eta), poisson.log_prob(COUNTS, eta), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        family.log_base_measure(COUNTS), poisson.log_base_measure(COUNTS), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(family.variance_of_y(eta), eta.exp(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [0.5, 3.0, 1000.0])
def test_it_is_logistic_with_size_y_plus_r_and_offset_minus_log_r(size):
    family, bernoulli = NegativeBinomial(size), Bernoulli()
    odds, total = ETA - math.log(size), COUNTS + size
    y = COUNTS.expand(-1, len(ETA))
    logistic = {
        "loss": total * bernoulli.log_partition(odds) - COUNTS * ETA,
        "score": y * bernoulli.mean(-odds) - size * bernoulli.mean(odds),
        "information": total * bernoulli.variance(odds),
        "third_derivative": total * bernoulli.third_cumulant(odds),
        "fourth_derivative": total * bernoulli.fourth_cumulant(odds),
    }
    for name, expected in logistic.items():
        found = getattr(family, name)(ETA, COUNTS)
        # The loss of the left side is a difference of numbers of the size of y eta.
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9 if name == "loss" else 0)


def test_a_whole_size_is_a_binomial_in_its_derivatives():
    family, binomial = NegativeBinomial(5.0), Binomial(total_count=12)
    y, odds = torch.tensor(7.0, dtype=torch.float64), ETA - math.log(5.0)
    for name in DERIVATIVES:
        torch.testing.assert_close(getattr(family, name)(ETA, y), getattr(binomial, name)(odds, y))


@pytest.mark.parametrize("size", [0.3, 40.0])
def test_probabilities_sum_to_one(size):
    eta = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    y = torch.arange(4000.0, dtype=torch.float64)[:, None]
    total = NegativeBinomial(size).log_prob(y, eta).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0.01, 0.8, 6.0, 1e4])
def test_draws_follow_scipy(size, dtype):
    eta = 1.5
    y = NegativeBinomial(size).sample(torch.tensor(eta, dtype=dtype), (20_000,)).double()
    law = scipy.stats.nbinom(size, size / (size + math.exp(eta)))
    few = range(12)
    observed = [float((y == k).sum()) for k in few] + [float((y >= 12).sum())]
    expected = [20_000 * law.pmf(k) for k in few] + [20_000 * law.sf(11)]
    likely = [(o, e) for o, e in zip(observed, expected, strict=True) if e > 5]
    statistic = sum((o - e) ** 2 / e for o, e in likely)
    assert scipy.stats.chi2(len(likely)).sf(statistic) > 1e-4


def test_gradients_flow_to_the_size():
    size = torch.tensor([0.4, 3.0, 900.0], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([-1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, 11.0, 70.0], dtype=torch.float64)

    def log_prob(eta: Tensor, size: Tensor) -> Tensor:
        return NegativeBinomial(size).log_prob(y, eta)

    assert torch.autograd.gradcheck(log_prob, (eta, size), fast_mode=True)
    assert torch.autograd.gradgradcheck(log_prob, (eta, size), fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda r: NegativeBinomial(r).log_base_measure(y), size, fast_mode=True
    )
    for name in DERIVATIVES:
        assert torch.autograd.gradcheck(
            lambda eta, r, name=name: getattr(NegativeBinomial(r), name)(eta, y),
            (eta, size),
            fast_mode=True,
        )


def test_the_divergence_is_the_mean_log_ratio():
    family, y = NegativeBinomial(2.5), torch.arange(5000.0, dtype=torch.float64)[:, None]
    eta, other = torch.tensor([[0.3, 1.0, 2.0], [1.0, 1.0001, -1.0]], dtype=torch.float64)
    p, q = family.log_prob(y, eta), family.log_prob(y, other)
    torch.testing.assert_close(
        family.kl_divergence(eta, other), (p.exp() * (p - q)).sum(0), rtol=1e-7, atol=1e-13
    )


@pytest.mark.parametrize("size", [0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_a_size_has_to_be_positive_and_finite(size):
    with pytest.raises(ValueError, match="size must be positive and finite, got"):
        NegativeBinomial(size)


@pytest.mark.parametrize("size", [True, "one", torch.tensor([True])])
def test_a_size_has_to_be_a_number(size):
    with pytest.raises(TypeError, match="size must be"):
        NegativeBinomial(size)


def test_impossible_counts_are_outside_of_the_support():
    values = torch.tensor([-1.0, 0.5, 0.0, 3.0])
    assert NegativeBinomial(1.0).support.check(values).tolist() == [False, False, True, True]


def test_base_measures_of_a_table_are_those_of_its_entries():
    size = torch.tensor([0.2, 3.0, 1e7], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 7.0, 900.0, 1e5, 4e6], dtype=torch.float64)
    y = y.repeat(300)[:, None].expand(-1, 3)
    table = NegativeBinomial(size).log_base_measure(y)
    entries = torch.stack(
        [NegativeBinomial(r).log_base_measure(y[:, 0]) for r in size.tolist()], -1
    )
    torch.testing.assert_close(table, entries, rtol=1e-12, atol=1e-12)
