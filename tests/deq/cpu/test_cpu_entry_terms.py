"""Terms of entries in one pass agree with the derivatives of the family, in float64."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cpu.entry_terms import find_terms

SHAPES = {"by row": (70, 1), "by column": (1, 530), "by entry": (70, 530)}


def terms_by_family(family, eta, statistic, weights):
    """Losses by row, residuals and variances, from the log-partition by automatic derivatives."""
    eta = eta.clone().requires_grad_()
    partition = family.log_partition(eta)
    (mean,) = torch.autograd.grad(partition.sum(), eta, create_graph=True)
    (variance,) = torch.autograd.grad(mean.sum(), eta)
    loss = weights * (partition - statistic * eta)
    return loss.sum(-1).detach(), (weights * (statistic - mean)).detach(), weights * variance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [None, *SHAPES])
@pytest.mark.parametrize("family", ["Poisson", "Bernoulli", "Binomial"])
def test_the_terms_are_those_of_the_family(family, weighted, dtype):
    law = {
        "Poisson": pef.families.Poisson(),
        "Bernoulli": pef.families.Bernoulli(),
        "Binomial": pef.families.Binomial(7),
    }[family]
    # Rows are longer than what is summed at once.
    eta = 2 * torch.randn(70, 530, dtype=torch.float64)
    y = torch.randint(0, 2, eta.shape).double()
    weights = None if weighted is None else torch.rand(SHAPES[weighted], dtype=torch.float64)
    for statistic in (y, None):
        in_place, residual = eta.to(dtype).clone(), torch.empty_like(eta, dtype=dtype)
        losses = find_terms(
            activation_of(law),
            in_place,
            None if statistic is None else statistic.to(dtype),
            None if weights is None else weights.to(dtype),
            residual,
        )
        ones = torch.ones(1, 1).double() if weights is None else weights
        zeros = torch.zeros_like(eta) if statistic is None else statistic
        expected = terms_by_family(law, eta, zeros, ones)
        tolerance = 2e-5 if dtype == torch.float32 else 1e-12
        for found, right in zip((losses, residual, in_place), expected, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=tolerance, atol=tolerance)


def test_a_mean_that_overflows_is_infinite():
    eta = torch.full((1, 40_000), 100.0)
    residual = torch.empty_like(eta)
    law = pef.families.Poisson()
    losses = find_terms(activation_of(law), eta, torch.ones_like(eta), None, residual)
    assert not losses.isfinite().any()
    assert bool((residual == -torch.inf).all())
