"""Log factorials in parts."""

from __future__ import annotations

import mpmath as mp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_expfam.families.saddle_point import (
    half_deviance,
    is_close,
    log_binomial_coefficient,
    log_factorial_remainder,
)

property_settings = settings(derandomize=True, deadline=None, max_examples=200)


def double(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@property_settings
@given(k=st.integers(0, 100) | st.integers(0, 10**15))
def test_remainder_of_a_log_factorial(k):
    with mp.workdps(50):
        large = k * mp.log(k) - k if k else mp.mpf(0)
        expected = float(mp.loggamma(k + 1) - large)
    value = log_factorial_remainder(double(float(k)))
    torch.testing.assert_close(value, double(expected), rtol=3e-14, atol=1e-15)


@property_settings
@given(mean=st.floats(1e-3, 1e12), factor=st.floats(0.667, 1.499))
def test_half_deviance(mean, factor):
    x = double(mean * factor)
    assert bool(is_close(x, double(mean)))
    with mp.workdps(50):
        exact_x = mp.mpf(x.item())
        expected = float(exact_x * mp.log(exact_x / mean) + mean - exact_x)
    torch.testing.assert_close(half_deviance(x, double(mean)), double(expected), rtol=1e-13, atol=0)


def test_zero_is_not_close_to_any_number():
    zero, one = double(0.0), double(1.0)
    assert not is_close(zero, one)
    assert not is_close(one, zero)
    assert not is_close(zero, zero)


@property_settings
@given(data=st.data(), n=st.integers(1, 50) | st.integers(1, 10**9))
def test_log_binomial_coefficient(data, n):
    k = data.draw(st.integers(0, n))
    with mp.workdps(50):
        expected = float(mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1))
    value = log_binomial_coefficient(double(float(n)), double(float(k)))
    torch.testing.assert_close(value, double(expected), rtol=1e-13, atol=1e-15)
