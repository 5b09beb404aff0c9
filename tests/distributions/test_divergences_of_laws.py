"""Divergences of laws from each other."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from law_cases import COUNTS, SCALES, Case, each_with_divergence
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_expfam import distributions, families
from pyro_expfam.distributions import (
    ExponentialFamilyDistribution,
)


def standard_errors(draws: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors the means of draws are from what is expected."""
    error = draws.std(0) / math.sqrt(len(draws))
    return (draws.mean(0) - expected).abs() / error


@each_with_divergence
def test_divergence_is_the_mean_log_ratio(case: Case) -> None:
    p, q = case(2, 3), case(2, 3)
    y = p.sample((8_000,))
    ratio = p.log_prob(y) - q.log_prob(y)
    divergence = kl_divergence(p, q)
    assert divergence.shape == (2, 3)
    assert (standard_errors(ratio, divergence) < 5).all()
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros_like(divergence))


@each_with_divergence
def test_divergences_of_joint_and_masked_laws_follow(case: Case) -> None:
    p, q = case(4, 3), case(4, 3)
    divergence = kl_divergence(p, q)
    joint = kl_divergence(p.to_event(1), q.to_event(1))
    torch.testing.assert_close(joint, divergence.sum(-1))
    mask = torch.rand(4, 3) < 0.5
    masked = kl_divergence(p.mask(mask), q.mask(mask))
    torch.testing.assert_close(masked, scale_and_mask(divergence, mask=mask))


def test_divergence_of_gaussians_of_different_scale_is_that_of_torch() -> None:
    mean, other = torch.randn(2, 4, 3, dtype=torch.float64)
    p, q = distributions.Gaussian(mean, SCALES), distributions.Gaussian(other, 1.7)
    expected = kl_divergence(
        dist.Normal(mean * SCALES, SCALES.double()), dist.Normal(other * 1.7, 1.7)
    )
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_divergence_of_gammas_of_different_shape_is_that_of_torch() -> None:
    eta, other = torch.randn(2, 4, 3, dtype=torch.float64)
    p, q = distributions.Gamma(eta, SCALES), distributions.Gamma(other, 1.7)
    theirs = [
        torch.distributions.Gamma(law.concentration, law.concentration * (-law.predictor).exp())
        for law in (p, q)
    ]
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(*theirs))


def test_divergence_of_binomials_of_different_count() -> None:
    p = distributions.Binomial(torch.randn(3), COUNTS)
    q = distributions.Binomial(torch.randn(3), torch.tensor([1.0, 3.0, 7.0]))
    assert kl_divergence(p, q).isinf().tolist() == [False, True, False]
    with pytest.raises(NotImplementedError, match="total_count"):
        kl_divergence(q, p)


def test_divergence_needs_one_family() -> None:
    eta, other = torch.rand(2, 3) + 0.5
    with pytest.raises(NotImplementedError, match=r"Poisson\(\) and Bernoulli\(\)"):
        kl_divergence(distributions.Poisson(eta), distributions.Bernoulli(other))
    generic = ExponentialFamilyDistribution(families.Poisson(), eta)
    named = distributions.Poisson(other)
    torch.testing.assert_close(
        kl_divergence(generic, named), kl_divergence(distributions.Poisson(eta), named)
    )
