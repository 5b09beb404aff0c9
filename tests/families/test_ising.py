"""The Ising family."""

from __future__ import annotations

import pytest
import torch

from pyro_expfam.families import Bernoulli, Binomial, Ising

ETA = torch.linspace(-9, 9, 25, dtype=torch.float64)


@pytest.mark.parametrize("order", range(1, 5))
def test_a_spin_is_twice_a_bernoulli_of_twice_the_log_odds(order):
    name = [None, "mean", "variance", "third_cumulant", "fourth_cumulant"][order]
    expected = 2**order * getattr(Bernoulli(), name)(2 * ETA) - int(order == 1)
    torch.testing.assert_close(getattr(Ising(), name)(ETA), expected, rtol=1e-12, atol=1e-14)


def test_log_prob_is_that_of_the_bernoulli():
    for spin in (-1.0, 1.0):
        y = torch.full_like(ETA, spin)
        expected = Bernoulli().log_prob((y + 1) / 2, 2 * ETA)
        torch.testing.assert_close(Ising().log_prob(y, ETA), expected)


def test_support_holds_the_two_spins_only():
    values = torch.tensor([-1.0, 1.0, 0.0, 0.5, -2.0, float("nan"), float("inf")])
    assert Ising().support.check(values).tolist() == [True, True] + [False] * 5
    assert Ising().support.is_discrete
    assert Ising().support.event_dim == 0


def test_log_partition_does_not_overflow():
    eta = torch.tensor([-1e4, 1e4])
    torch.testing.assert_close(Ising().log_partition(eta), eta.abs() - torch.tensor(2.0).log())


def test_the_support_is_named_in_words():
    assert repr(Ising().support) == "the numbers -1 and 1"
    assert repr(Binomial(16).support) == "the integers from 0 to 16"
