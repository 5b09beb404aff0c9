"""The binomial family."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from pyro_expfam.families import Bernoulli, Binomial

TOTALS = [1, 2, 15, 16, 17, 40, 1000, 10_000, 1_000_000]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("total", TOTALS)
def test_log_prob_and_log_base_measure_of_any_total(total, dtype):
    torch.manual_seed(5)
    family = Binomial(total)
    eta = torch.tensor([-80, -30, -14, -9.2, -5, -1, -1e-3, 0, 0.7, 3, 9.3, 14, 30, 80])
    eta = eta.to(dtype)
    ends = torch.tensor([0, 1, total // 2, total - 1, total], dtype=dtype)[:, None]
    y = torch.cat([family.sample(eta, (3,)), ends.expand(-1, len(eta))])
    with mp.workdps(60):
        log_base, expected = [], []
        pairs = zip(y.flatten().tolist(), eta.expand_as(y).flatten().tolist(), strict=True)
        for k, x in pairs:
            log_base.append(
                mp.loggamma(total + 1) - mp.loggamma(k + 1) - mp.loggamma(total - k + 1)
            )
            expected.append(log_base[-1] + mp.mpf(k) * x - total * mp.log1p(mp.exp(x)))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for values, wanted in [
        (family.log_prob(y, eta), expected),
        (family.log_base_measure(y), log_base),
    ]:
        wanted = torch.tensor([float(value) for value in wanted], dtype=torch.float64)
        torch.testing.assert_close(values.double().flatten(), wanted, rtol=tolerance, atol=1e-35)


@pytest.mark.parametrize("total", [17, 300, 10_000])
def test_expected_log_base_measure_and_entropy_are_sums_over_all_counts(total):
    eta = torch.tensor([-30.0, -9.0, -2.0, -0.1, 0.0, 0.4, 3.0, 12.0], dtype=torch.float64)
    y = torch.arange(total + 1, dtype=torch.float64)[:, None]
    log_mass = Binomial(total).log_prob(y, eta)
    mass, log_base = log_mass.exp(), Binomial(total).log_base_measure(y)
    values = Binomial(total).expected_log_base_measure(eta)
    torch.testing.assert_close(values, (mass * log_base).sum(0), rtol=1e-11, atol=1e-13)
    entropy = -(mass * log_mass).sum(0)
    torch.testing.assert_close(Binomial(total).entropy(eta), entropy, rtol=1e-11, atol=1e-13)


def test_entropy_of_a_huge_total_is_that_of_a_gaussian():
    entropy = Binomial(10_000_000).entropy(torch.tensor([0.0, 0.5], dtype=torch.float64))
    variance = Binomial(10_000_000).variance(torch.tensor([0.0, 0.5], dtype=torch.float64))
    expected = 0.5 * torch.log(2 * torch.pi * torch.e * variance)
    torch.testing.assert_close(entropy, expected, rtol=1e-6, atol=0)


def test_a_total_for_each_feature():
    totals = [1, 7, 200]
    family = Binomial(torch.tensor(totals))
    eta = torch.randn(4, 3, dtype=torch.float64)
    y = family.sample(eta)
    for i, total in enumerate(totals):
        single = Binomial(total)
        for name in ("log_partition", "mean", "variance", "entropy", "expected_log_base_measure"):
            torch.testing.assert_close(
                getattr(family, name)(eta)[:, i], getattr(single, name)(eta[:, i])
            )
        torch.testing.assert_close(
            family.log_prob(y, eta)[:, i], single.log_prob(y[:, i], eta[:, i])
        )
        torch.testing.assert_close(
            family.natural_param(family.mean(eta))[:, i], eta[:, i], rtol=1e-9, atol=1e-9
        )
    inside = family.support.check(torch.tensor([[1.0, 7.0, 200.0], [2.0, 8.0, 201.0]]))
    assert inside.tolist() == [[True] * 3, [False] * 3]


def test_a_total_of_one_is_a_bernoulli():
    eta = torch.linspace(-40, 40, 41, dtype=torch.float64)
    y = (torch.arange(41) % 2).double()
    for name in ("log_partition", "mean", "variance", "third_cumulant", "entropy"):
        torch.testing.assert_close(
            getattr(Binomial(1), name)(eta),
            getattr(Bernoulli(), name)(eta),
            rtol=1e-13,
            atol=0,
        )
    torch.testing.assert_close(
        Binomial(1).log_prob(y, eta), Bernoulli().log_prob(y, eta), rtol=1e-13, atol=0
    )


def test_variance_of_a_large_total_keeps_its_digits_where_the_mean_is_the_total():
    eta = torch.tensor([20.0], requires_grad=True)
    family = Binomial(10_000)
    expected = torch.tensor([1e4 * np.exp(-20.0)], dtype=torch.float32)
    (slope,) = torch.autograd.grad(family.mean(eta).sum(), eta)
    for variance in (family.variance(eta), family.mean_and_variance(eta)[1], slope):
        torch.testing.assert_close(variance.detach(), expected, rtol=1e-6, atol=0)


def test_gradient_in_an_observation():
    y = torch.tensor([0.0, 3.0, 16.0], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([0.5, -1.0, 4.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(Binomial(16).log_prob(y, eta).sum(), y)
    count = y.detach().numpy()
    slope = scipy.special.digamma(17 - count) - scipy.special.digamma(count + 1)
    torch.testing.assert_close(gradient, eta + torch.from_numpy(slope))


def test_agrees_with_scipy():
    eta = torch.linspace(-4, 4, 9, dtype=torch.float64)
    y = torch.arange(9, dtype=torch.float64)
    expected = scipy.stats.binom(23, torch.sigmoid(eta).numpy())
    values = Binomial(23).log_prob(y, eta).numpy()
    np.testing.assert_allclose(values, expected.logpmf(y.numpy()), rtol=1e-11)
    np.testing.assert_allclose(Binomial(23).entropy(eta).numpy(), expected.entropy(), rtol=1e-10)


@pytest.mark.parametrize("total", [0, -3, 2.5, 16.0, float("nan")])
def test_a_number_that_is_no_total_is_refused(total):
    with pytest.raises(ValueError, match=rf"total_count is {total}, .* a positive integer"):
        Binomial(total)


@pytest.mark.parametrize("total", ["16", None, True])
def test_a_total_of_another_type_is_refused(total):
    with pytest.raises(TypeError, match=r"total_count is .* a positive integer"):
        Binomial(total)


@pytest.mark.parametrize("entries", [[3.0, 2.5], [3, 0], [True, True], [3.0, float("nan")]])
def test_a_tensor_with_an_entry_that_is_no_total_is_refused(entries):
    with pytest.raises(ValueError, match=r"total_count is tensor\(.* a positive integer"):
        Binomial(torch.tensor(entries))


def test_a_numpy_integer_is_a_total():
    assert repr(Binomial(np.int64(16))) == "Binomial(total_count=16)"
