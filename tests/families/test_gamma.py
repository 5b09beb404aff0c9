"""The gamma family against SciPy, mpmath, and its identities."""

from __future__ import annotations

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_expfam.families import Gamma, Poisson

ETA = torch.linspace(-30, 30, 61, dtype=torch.float64)
RATIOS = torch.tensor([1e-9, 0.03, 0.7, 0.9999, 1.0, 1.2, 5.0, 1e3], dtype=torch.float64)[:, None]
DERIVATIVES = ("score", "information", "third_derivative", "fourth_derivative")


@pytest.mark.parametrize("shape", [0.05, 1.0, 7.3, 400.0])
def test_log_prob_is_that_of_scipy(shape):
    y = RATIOS * ETA.exp()
    theirs = scipy.stats.gamma(shape, scale=ETA.exp().numpy() / shape).logpdf(y.numpy())
    torch.testing.assert_close(
        Gamma(shape).log_prob(y, ETA), torch.as_tensor(theirs), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [2.0**-10, 0.25, 8.0, 2.0**20, 2.0**45])
def test_log_prob_does_not_cancel(shape, dtype):
    family, eps = Gamma(shape), 4 * torch.finfo(dtype).eps
    for eta in (-8.0, 0.0, 0.5, 6.0):
        for ratio in RATIOS.flatten().tolist():
            y = torch.tensor(ratio * math.exp(eta), dtype=dtype)
            with mpmath.workdps(60):
                k, mean, value = mpmath.mpf(shape), mpmath.exp(eta), mpmath.mpf(float(y))
                rate = k / mean
                exact = float(
                    k * mpmath.log(rate)
                    - mpmath.loggamma(k)
                    + (k - 1) * mpmath.log(value)
                    - rate * value
                )
                # A rounding of the log ratio in double precision moves the value.
                moved = float(abs(k * (value / mean - 1))) * 1e-15 * (1 + abs(eta))
            found = float(family.log_prob(y, torch.tensor(eta, dtype=dtype)))
            assert abs(found - exact) <= max(eps, 1e-13) * (1 + abs(exact)) + moved, (eta, ratio)


@pytest.mark.parametrize("shape", [0.3, 1.0, 50.0])
def test_it_is_a_poisson_of_the_log_ratio_with_weight_k(shape):
    family, poisson = Gamma(shape), Poisson()
    y = torch.tensor([0.02, 1.0, 30.0], dtype=torch.float64)[:, None]
    one, reversed_eta = torch.ones_like(y), y.log() - ETA
    signs = {"score": -1, "information": 1, "third_derivative": -1, "fourth_derivative": 1}
    for name, sign in signs.items():
        expected = sign * shape * getattr(poisson, name)(reversed_eta, one)
        found = getattr(family, name)(ETA, y)
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-12, atol=1e-12)
    expected = shape * (poisson.loss(reversed_eta, one) + y.log())
    torch.testing.assert_close(family.loss(ETA, y), expected, rtol=1e-12, atol=1e-12)


def test_shape_one_is_the_exponential_law():
    y = torch.tensor([0.1, 2.0], dtype=torch.float64)[:, None]
    expected = torch.distributions.Exponential((-ETA).exp()).log_prob(y)
    torch.testing.assert_close(Gamma(1.0).log_prob(y, ETA), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [0.2, 1.0, 30.0])
def test_draws_follow_scipy(shape, dtype):
    eta = -0.5
    y = Gamma(shape).sample(torch.tensor(eta, dtype=dtype), (20_000,)).double().numpy()
    law = scipy.stats.gamma(shape, scale=math.exp(eta) / shape)
    assert scipy.stats.kstest(y, law.cdf).pvalue > 1e-4


def test_draws_are_positive_also_where_they_round_to_zero():
    y = Gamma(0.001).sample(torch.zeros(5000))
    assert bool(Gamma(0.001).support.check(y).all())


@pytest.mark.parametrize("shape", [0.02, 1.0, 15.9, 16.1, 1e6])
def test_entropy_is_that_of_mpmath(shape):
    with mpmath.workdps(40):
        k = mpmath.mpf(shape)
        expected = k + 1 - mpmath.log(k) + mpmath.loggamma(k) + (1 - k) * mpmath.digamma(k)
    found = Gamma(shape).entropy(torch.tensor(1.0, dtype=torch.float64))
    assert float(found) == pytest.approx(float(expected), rel=1e-12, abs=1e-12)


def test_gradients_flow_to_the_shape():
    shape = torch.tensor([0.4, 3.0, 900.0], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([-1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.3, 11.0, 70.0], dtype=torch.float64)

    def log_prob(eta: Tensor, shape: Tensor) -> Tensor:
        return Gamma(shape).log_prob(y, eta)

    assert torch.autograd.gradcheck(log_prob, (eta, shape), fast_mode=True)
    assert torch.autograd.gradgradcheck(log_prob, (eta, shape), fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda k: Gamma(k).log_base_measure(y), shape, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda eta, k: Gamma(k).entropy(eta), (eta, shape), fast_mode=True
    )


@pytest.mark.parametrize("shape", [0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_a_shape_has_to_be_positive_and_finite(shape):
    with pytest.raises(ValueError, match="shape must be positive and finite, got"):
        Gamma(shape)


@pytest.mark.parametrize("shape", [True, "one", torch.tensor([1j])])
def test_a_shape_has_to_be_a_number(shape):
    with pytest.raises(TypeError, match="shape must be"):
        Gamma(shape)


def test_zeros_are_outside_of_the_support():
    assert Gamma(1.0).support.check(torch.tensor([-1.0, 0.0, 0.1])).tolist() == [False, False, True]
