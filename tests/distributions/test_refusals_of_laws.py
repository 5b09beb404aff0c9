"""What a law refuses, and how it prints itself."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from law_cases import Case, WaitingTime, each_law

from pyro_expfam import distributions, families, links
from pyro_expfam.distributions import (
    distribution,
)

INVALID = {
    "Gaussian": math.nan,
    "Gaussian-scale": math.nan,
    "Gaussian-scales": math.nan,
    "Bernoulli": 0.5,
    "Ising": 0.0,
    "ContinuousBernoulli": 1.5,
    "Poisson": -1.0,
    "Binomial": 7.0,
    "Binomial-counts": 8.0,
    "NegativeBinomial": -1.0,
    "BoseEinstein": 0.5,
    "PoissonLogNormal": 0.5,
    "NegativeBinomial-sizes": 0.5,
    "Gamma": 0.0,
    "Gamma-shapes": -1.0,
    "Geometric": 0.5,
    "Ordinal": 4.0,
    "Exponential": 0.0,
    "Weibull": -1.0,
    "Pareto": 2.0,
    "LogNormal": 0.0,
    "Beta": 1.0,
    "Tweedie": -0.5,
    "ZeroTruncatedPoisson": 0.0,
    "ZeroInflatedPoisson": 0.5,
    "ZeroInflatedNegativeBinomial": -1.0,
    "linked-probit": 0.5,
    "linked-softplus": -1.0,
    "linked-scales": math.nan,
    "generic-WaitingTime": -0.5,
    "generic-Gaussian": math.nan,
}


@each_law
def test_observations_outside_the_support_are_named(case: Case) -> None:
    law = case(4, 3)
    y = law.sample((2,))
    y[1, 2, 2] = y[1, 3, 2] = INVALID[case.name]
    wanted = rf"2 of its 24 elements .* the first is {INVALID[case.name]} at \(1, 2, 2\)"
    with pytest.raises(ValueError, match=wanted):
        law.log_prob(y)
    with pytest.raises(ValueError, match="Tensor"):
        law.log_prob(1.0)


@each_law
def test_validation_can_be_switched_off(case: Case) -> None:
    eta = torch.full((3,), math.nan)
    y = torch.full((3,), INVALID[case.name])
    with pyro.validation_enabled(False):
        case.at(eta).log_prob(y)
    case.at(eta, validate_args=False).log_prob(y)
    distribution(case.at(torch.ones(3)).family, eta, validate_args=False).log_prob(y)
    with pyro.validation_enabled(True):
        for build in (case.at, lambda eta: distribution(case.at(torch.ones(3)).family, eta)):
            with pytest.raises(ValueError, match=case.argument):
                build(eta)


def test_the_natural_domain_is_checked() -> None:
    with pytest.raises(ValueError, match="GreaterThan"):
        distribution(WaitingTime(), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_has_to_be_positive(scale: float) -> None:
    for value in (scale, torch.tensor([1.0, scale])):
        with pytest.raises(ValueError, match="scale"):
            distributions.Gaussian(torch.zeros(2), value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_sizes_and_shapes_have_to_be_positive(value: float) -> None:
    for given in (value, torch.tensor([1.0, value])):
        with pytest.raises(ValueError, match="size must be positive and finite, got"):
            distributions.NegativeBinomial(torch.zeros(2), given)
        with pytest.raises(ValueError, match="shape must be positive and finite, got"):
            distributions.Gamma(torch.zeros(2), given)


@pytest.mark.parametrize("total_count", [-1, 0, 1.5])
def test_a_total_count_has_to_be_positive(total_count: Any) -> None:
    for value in (total_count, torch.tensor([1.0, total_count])):
        with pytest.raises(ValueError, match="total_count"):
            distributions.Binomial(torch.zeros(2), value)


def test_repr_names_the_parameters() -> None:
    described = {
        repr(distributions.Gaussian(torch.zeros(3), 2.0)): (
            "Gaussian(scale: 2.0, natural_param: torch.Size([3]))"
        ),
        repr(distributions.Binomial(0.5, total_count=4)): (
            "Binomial(total_count: 4, natural_param: 0.5)"
        ),
        repr(distributions.Gamma(torch.zeros(3), 2.0)): (
            "Gamma(concentration: 2.0, predictor: torch.Size([3]))"
        ),
        repr(distribution(families.Bernoulli(link=links.Probit()), 0.5)): (
            "FamilyDistribution(family: Bernoulli(link=Probit()), predictor: 0.5)"
        ),
        repr(distribution(WaitingTime(), torch.ones(3))): (
            "ExponentialFamilyDistribution(family: WaitingTime(), natural_param: torch.Size([3]))"
        ),
    }
    assert list(described.keys()) == list(described.values())
