"""The Pyro distribution of compositions, against the one of PyTorch."""

import pyro
import pytest
import torch
from pyro import poutine

from pyro_expfam import distributions


def laws(*shape):
    eta = torch.randn(*shape, 4, dtype=torch.float64)
    return distributions.Multinomial(eta, total=9), torch.distributions.Multinomial(9, logits=eta)


def test_densities_and_moments_are_those_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = laws(5, 3)
    assert (ours.batch_shape, ours.event_shape) == ((5, 3), (4,))
    y = theirs.sample((2,))
    torch.testing.assert_close(ours.log_prob(y), theirs.log_prob(y))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    shapes = distributions.Multinomial.infer_shapes(predictor=(5, 3, 4), total=(3,))
    assert shapes == (ours.batch_shape, ours.event_shape)


def test_draws_sum_to_totals_that_differ():
    torch.manual_seed(0)
    total = torch.tensor([1, 5, 100])
    law = distributions.Multinomial(torch.randn(2, 3, 4), total)
    y = law.sample((2000,))
    assert bool((y.sum(-1) == total).all())
    error = (y.mean(0) - law.mean).abs() / (y.std(0) / 2000**0.5)
    assert bool((error < 5).all())
    assert law.expand((7, 2, 3)).sample().shape == (7, 2, 3, 4)


def test_it_is_the_law_of_a_site():
    law, _ = laws(6)
    y = law.sample()

    def model(y=None):
        with pyro.plate("rows", 6):
            return pyro.sample("y", law, obs=y)

    trace = poutine.trace(model).get_trace(y)
    torch.testing.assert_close(trace.log_prob_sum(), law.log_prob(y).sum())


def test_other_sums_and_totals_are_refused():
    law, _ = laws(2)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor([3.0, 3.0, 3.0, 1.0]).double())
    with pytest.raises(ValueError, match="total"):
        distributions.Multinomial(torch.zeros(3), total=0)
    with pytest.raises(ValueError, match="an entry for each category"):
        distributions.Multinomial(torch.tensor(0.0), total=1)
