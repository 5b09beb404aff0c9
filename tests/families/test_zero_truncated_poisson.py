"""The zero-truncated Poisson family against sums and mpmath."""

import mpmath
import pytest
import torch

from pyro_expfam.families import Poisson, ZeroTruncatedPoisson

FAMILY = ZeroTruncatedPoisson()


@pytest.mark.parametrize("eta", [-30.0, -3.0, -0.01, 0.0, 0.01, 1.5, 4.0])
def test_cumulants_are_derivatives_of_the_log_partition(eta):
    with mpmath.workdps(50):
        exact = [
            float(mpmath.diff(lambda r: mpmath.log(mpmath.expm1(mpmath.exp(r))), eta, k))
            for k in range(5)
        ]
    at = torch.tensor(eta, dtype=torch.float64)
    names = ("log_partition", "mean", "variance", "third_cumulant", "fourth_cumulant")
    found = [float(getattr(FAMILY, name)(at)) for name in names]
    assert found == pytest.approx(exact, rel=1e-11, abs=1e-300)


def test_probabilities_are_those_of_a_poisson_that_is_not_zero():
    eta = torch.linspace(-3, 3, 7, dtype=torch.float64)
    y = torch.arange(1.0, 120.0, dtype=torch.float64)[:, None]
    zero = torch.exp(Poisson().log_prob(torch.zeros_like(eta), eta))
    expected = Poisson().log_prob(y, eta) - torch.log1p(-zero)
    torch.testing.assert_close(FAMILY.log_prob(y, eta), expected)
    torch.testing.assert_close(torch.exp(expected).sum(0), torch.ones_like(eta))
    entropy = -(torch.exp(expected) * expected).sum(0)
    torch.testing.assert_close(FAMILY.entropy(eta), entropy)


def test_the_bound_of_the_third_cumulant_holds_and_is_tight():
    eta = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    ratio = (FAMILY.third_cumulant(eta).abs() / FAMILY.variance(eta)).max()
    assert 1.25 < float(ratio) < FAMILY.self_concordance


def test_draws_at_tiny_and_at_large_rates_are_positive_counts():
    eta = torch.tensor([-80.0, -2.0, 12.0])
    y = FAMILY.sample(eta, (1000,))
    assert bool(FAMILY.support.check(y).all())
    assert bool((y[:, 0] == 1).all())
