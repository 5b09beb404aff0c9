"""Weights multiply log densities and leave draws alone."""

import pyro.distributions as dist
import torch

from pyro_expfam.weighted import WeightedDistribution


def test_an_entry_of_weight_two_counts_as_two():
    law, y = dist.Poisson(torch.rand(4, 3) + 1), torch.poisson(torch.ones(4, 3))
    weights = torch.randint(0, 3, (1, 3)).float()
    weighted = WeightedDistribution(law, weights)
    torch.testing.assert_close(weighted.log_prob(y), weights * law.log_prob(y))
    rows = weighted.mask(torch.tensor([True, False, True])).to_event(1)
    expected = (weights * law.log_prob(y))[:, [0, 2]].sum(-1)
    torch.testing.assert_close(rows.log_prob(y), expected)


def test_batches_expand():
    weighted = WeightedDistribution(dist.Normal(torch.zeros(3), 1.0), torch.rand(3))
    larger = weighted.to_event(1).expand([5, 2])
    assert larger.batch_shape == (5, 2)
    y = torch.randn(5, 2, 3)
    torch.testing.assert_close(larger.log_prob(y), weighted.log_prob(y).sum(-1))


def test_draws_and_moments_are_those_of_the_distribution():
    law = dist.Normal(torch.randn(3), torch.rand(3))
    weighted = WeightedDistribution(law, torch.zeros(3))
    torch.manual_seed(1)
    expected = law.rsample((2,))
    torch.manual_seed(1)
    torch.testing.assert_close(weighted.rsample((2,)), expected)
    assert weighted.has_rsample
    assert weighted.support is law.support
    torch.testing.assert_close(weighted.mean, law.mean)
    torch.testing.assert_close(weighted.variance, law.variance)
    assert not WeightedDistribution(dist.Poisson(torch.ones(3)), torch.ones(3)).has_rsample
