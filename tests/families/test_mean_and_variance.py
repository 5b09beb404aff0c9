"""Mean and variance from one evaluation: each has its own gradient, to every order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import pyro_expfam as pef

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
# Not at zero and no whole numbers, where one formula gives way to another.
ETA = torch.cat([torch.linspace(-4, 4, 17), torch.tensor([1e-3, -0.02])]).double() + 0.0123


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_gradients_are_the_next_cumulants_for_any_weights(family):
    eta = ETA.clone().requires_grad_()
    to_mean, to_variance = torch.randn(2, len(ETA)).double()
    mean, variance = family.mean_and_variance(eta)
    second, third = family.variance(ETA), family.third_cumulant(ETA)
    for value, expected in (
        ((to_mean * mean).sum(), to_mean * second),
        ((to_variance * variance).sum(), to_variance * third),
        (
            (to_mean * mean + to_variance * variance).sum(),
            to_mean * second + to_variance * third,
        ),
    ):
        (found,) = torch.autograd.grad(value, eta, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradients_pass_gradcheck_to_second_order(family):
    eta = ETA.clone().requires_grad_()
    assert gradcheck(family.mean_and_variance, eta, fast_mode=True)
    assert gradgradcheck(family.mean_and_variance, eta, fast_mode=True)
