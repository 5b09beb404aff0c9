"""The Bernoulli family."""

from __future__ import annotations

import torch

from pyro_expfam.families import Bernoulli


def test_agrees_with_torch():
    eta = torch.linspace(-6, 6, 13, dtype=torch.float64)
    y = (torch.arange(13) % 2).double()
    expected = torch.distributions.Bernoulli(logits=eta)
    torch.testing.assert_close(Bernoulli().log_prob(y, eta), expected.log_prob(y))
    torch.testing.assert_close(Bernoulli().entropy(eta), expected.entropy())


def test_probability_of_the_rarer_outcome_keeps_its_digits():
    eta = torch.tensor([-80.0, 80.0])
    expected = torch.full((2,), -80.0).exp()
    torch.testing.assert_close(Bernoulli().variance(eta), expected, rtol=1e-6, atol=0)
    log_probs = Bernoulli().log_prob(torch.tensor([0.0, 1.0]), eta)
    torch.testing.assert_close(log_probs, -expected, rtol=1e-6, atol=0)


def test_repr():
    assert repr(Bernoulli()) == "Bernoulli()"
