"""The Bregman divergence."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch

from pyro_expfam.families.bregman import bregman_divergence


@pytest.mark.parametrize("step", [1e-9, 1e-4, 0.1, 0.999, 1.001, 5.0])
def test_close_points_have_relative_accuracy(step):
    x = torch.tensor([-2.0, 0.3, 4.0], dtype=torch.float64)
    other = x + torch.tensor([step, -step, step], dtype=torch.float64)
    values = bregman_divergence(torch.exp, torch.exp, torch.exp, x, other)
    with mp.workdps(50):
        expected = [
            float(mp.exp(b) - mp.exp(a) - (mp.mpf(b) - mp.mpf(a)) * mp.exp(a))
            for a, b in zip(x.tolist(), other.tolist(), strict=True)
        ]
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0
    )


def test_arguments_broadcast():
    x, other = torch.randn(3, 1), torch.randn(4)
    values = bregman_divergence(torch.exp, torch.exp, torch.exp, x, other)
    assert values.shape == (3, 4)
    assert bool((values >= 0).all())


def test_digits_are_kept_close_to_the_end_of_a_domain():
    # The log-partition of the geometric family, whose second derivative grows without bound at 0.
    def function(r):
        return -torch.log(-torch.expm1(r))

    def derivative(r):
        return -torch.exp(r) / torch.expm1(r)

    def second_derivative(r):
        return torch.exp(r) / torch.expm1(r).square()

    x = torch.tensor([-1e-3, -0.05, -0.9], dtype=torch.float64)
    other = torch.tensor([-0.4, -0.9, -0.02], dtype=torch.float64)
    values = bregman_divergence(function, derivative, second_derivative, x, other)
    with mp.workdps(50):
        expected = [
            float(
                mp.log(mp.expm1(a) / mp.expm1(b))
                + (mp.mpf(b) - mp.mpf(a)) * mp.exp(a) / mp.expm1(a)
            )
            for a, b in zip(x.tolist(), other.tolist(), strict=True)
        ]
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
    )
