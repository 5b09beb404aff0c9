"""The continuous Bernoulli family."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_expfam.families import ContinuousBernoulli

FAMILY = ContinuousBernoulli()
NAMES = ["log_partition", "mean", "variance", "third_cumulant", "fourth_cumulant"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_series_and_tails_meet(name, radius):
    ends = torch.tensor([radius], dtype=torch.float64)
    below, above = torch.nextafter(ends, 0 * ends), ends
    for sign in (-1, 1):
        inner, outer = getattr(FAMILY, name)(sign * below), getattr(FAMILY, name)(sign * above)
        torch.testing.assert_close(inner, outer, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_symmetry(name):
    eta = torch.linspace(0, 80, 161, dtype=torch.float64)
    function, order = getattr(FAMILY, name), NAMES.index(name)
    at_zero = {0: eta, 1: torch.ones_like(eta)}.get(order, torch.zeros_like(eta))
    expected = (-1) ** order * (function(eta) - at_zero)
    torch.testing.assert_close(function(-eta), expected, rtol=1e-11, atol=1e-14)


def test_derivatives_of_every_order():
    eta = torch.tensor([-7.0, -0.2, 0.0, 1.5, 4.0], dtype=torch.float64, requires_grad=True)
    value = FAMILY.fourth_cumulant(eta)
    with mp.workdps(60):
        for order in (5, 6, 7):
            (value,) = torch.autograd.grad(value.sum(), eta, create_graph=True)
            expected = [float(derivative_of_log_partition(x, order)) for x in eta.tolist()]
            torch.testing.assert_close(
                value.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9
            )


def derivative_of_log_partition(x: float, order: int) -> mp.mpf:
    # Of an analytic function the coefficient is an average over a circle.
    def log_partition(z: mp.mpc) -> mp.mpc:
        return mp.log(mp.sinh(z / 2) / (z / 2)) + z / 2

    return mp.re(mp.taylor(log_partition, mp.mpf(x) + mp.mpf(10) ** -25, order)[order]) * (
        mp.factorial(order)
    )


@settings(derandomize=True, deadline=None, max_examples=200)
@given(mean=st.floats(0, 1), single=st.booleans())
def test_mean_of_the_natural_param_of_any_mean(mean, single):
    mean = torch.tensor(mean, dtype=torch.float32 if single else torch.float64)
    natural = FAMILY.natural_param(mean)
    eps = torch.finfo(mean.dtype).eps
    assert not natural.isnan()
    # From 1 / max on the reciprocal of a mean is infinite, and the mean of that is 0.
    assert (FAMILY.mean(natural) - mean).abs() <= 4 * eps * mean + 2 * torch.finfo(mean.dtype).tiny


def test_natural_param_is_odd_about_one_half():
    mean = torch.rand(100, dtype=torch.float64) / 2
    mean = mean + 0.5 - 0.5  # A mean whose complement is exact.
    natural = FAMILY.natural_param(mean)
    torch.testing.assert_close(FAMILY.natural_param(1 - mean), -natural, rtol=1e-13, atol=1e-14)
    assert FAMILY.natural_param(torch.tensor(0.5)) == 0


def test_natural_param_outside_of_the_mean_space_is_nan():
    assert bool(FAMILY.natural_param(torch.tensor([-0.1, 1.1, float("nan")])).isnan().all())


def test_agrees_with_torch():
    eta = torch.linspace(-6, 6, 12, dtype=torch.float64)
    y = torch.rand(12, dtype=torch.float64)
    expected = torch.distributions.ContinuousBernoulli(logits=eta)
    torch.testing.assert_close(FAMILY.log_prob(y, eta), expected.log_prob(y))
    torch.testing.assert_close(FAMILY.entropy(eta), expected.entropy())


def test_values_far_outside_are_finite():
    eta = torch.tensor([-1e6, -200.0, 200.0, 1e6])
    for name in NAMES:
        assert bool(getattr(FAMILY, name)(eta).isfinite().all())
    assert bool((FAMILY.mean_and_variance(eta)[1] > 0).all())
