"""The Poisson family."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import scipy.special
import torch

from pyro_expfam.families import Poisson


def exact_log_prob(y: torch.Tensor, eta: torch.Tensor) -> torch.Tensor:
    with mp.workdps(40):
        values = [
            float(k * x - mp.exp(x) - mp.loggamma(k + 1))
            for k, x in zip(map(mp.mpf, y.tolist()), map(mp.mpf, eta.tolist()), strict=True)
        ]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_prob_of_large_counts_near_the_mode(dtype):
    rng = np.random.default_rng(3)
    rate = 10.0 ** rng.uniform(0, 8, 200)
    eta = torch.from_numpy(np.log(rate)).to(dtype)
    y = torch.from_numpy(rng.poisson(rate).astype(float)).to(dtype)
    tolerance = 2e-7 if dtype == torch.float32 else 1e-12
    values = Poisson().log_prob(y, eta).double()
    torch.testing.assert_close(values, exact_log_prob(y, eta), rtol=tolerance, atol=0)


@pytest.mark.parametrize("factor", [0.3, 1 / 1.5, 0.7, 1.0, 1.4, 1.5, 1.6, 3.0])
def test_log_prob_around_the_bound_of_the_series(factor):
    eta = torch.linspace(2, 20, 50, dtype=torch.float64)
    y = (factor * eta.exp()).round()
    expected = exact_log_prob(y, eta)
    torch.testing.assert_close(Poisson().log_prob(y, eta), expected, rtol=1e-12, atol=0)


def test_gradient_in_an_observation():
    y = torch.tensor([0.0, 3.0, 40.0], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(Poisson().log_prob(y, eta).sum(), y)
    expected = eta - torch.from_numpy(scipy.special.digamma(y.detach().numpy() + 1))
    torch.testing.assert_close(gradient, expected)


def test_entropy_is_continuous_where_sum_and_series_meet():
    border = torch.tensor(40.0, dtype=torch.float64).log()
    eta = border + torch.tensor([-1e-13, 1e-13], dtype=torch.float64)
    below, above = Poisson().entropy(eta)
    assert abs(below - above) < 1e-12
    below, above = Poisson().expected_log_base_measure(eta)
    assert abs(below - above) < 1e-10


def test_derivative_of_the_entropy_where_sum_and_series_meet():
    eta = torch.tensor([40.0], dtype=torch.float64).log()
    eta = torch.cat([eta - 1e-9, eta + 1e-9]).requires_grad_()
    (first,) = torch.autograd.grad(Poisson().entropy(eta).sum(), eta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), eta)
    torch.testing.assert_close(first[0], first[1], rtol=1e-8, atol=0)
    torch.testing.assert_close(second[0], second[1], rtol=1e-6, atol=1e-9)


def test_expected_log_base_measure_by_monte_carlo():
    torch.manual_seed(0)
    eta = torch.tensor([-1.0, 2.0, 5.0, 12.0], dtype=torch.float64)
    draws = Poisson().log_base_measure(Poisson().sample(eta, (100_000,)))
    error = (draws.mean(0) - Poisson().expected_log_base_measure(eta)).abs()
    assert bool((error < 4.5 * draws.std(0) / 100_000**0.5).all())


def test_zero_rate_has_all_mass_at_zero():
    eta = torch.full((2,), -torch.inf)
    assert Poisson().log_prob(torch.tensor([0.0, 2.0]), eta).tolist() == [0.0, -torch.inf]
