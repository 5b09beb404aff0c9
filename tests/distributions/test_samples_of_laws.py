"""Draws of a law, and gradients through them."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from law_cases import (
    SHAPE_TYPES,
    TEST_FAILURE_RATE,
    Case,
    each_continuous,
    each_discrete,
    each_law,
    each_reparameterised,
)
from pyro.distributions.testing.gof import auto_goodness_of_fit, multinomial_goodness_of_fit
from torch import Tensor

from pyro_expfam import distributions


def standard_errors(draws: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors the means of draws are from what is expected."""
    error = draws.std(0) / math.sqrt(len(draws))
    return (draws.mean(0) - expected).abs() / error


@each_continuous
def test_continuous_samples_fit_the_density(case: Case) -> None:
    law = case(3)
    y = law.sample((20_000,))
    if case.name == "Tweedie":  # of the amounts above zero
        law, y = law.expand((20_000, 3)), torch.where(y > 0, y, torch.nan)
        columns = [column[column > 0] for column in y.unbind(-1)]
        share = -torch.expm1(law.log_prob(torch.zeros_like(y))[0])
        for place, column in enumerate(columns):
            eta = law.predictor[: len(column), place]
            density = law.family.log_prob(column, eta).exp() / share[place]
            assert auto_goodness_of_fit(column, density) > TEST_FAILURE_RATE
        return
    for column, density in zip(y.unbind(-1), law.log_prob(y).exp().unbind(-1), strict=True):
        assert auto_goodness_of_fit(column, density) > TEST_FAILURE_RATE


@each_discrete
def test_discrete_samples_fit_the_probabilities(case: Case) -> None:
    law = case(3)
    y = law.sample((20_000,))
    grid = torch.arange(-1.0, 40.0, dtype=torch.float64)[:, None].expand(-1, 3)
    inside = law.support.check(grid)
    probabilities = law.log_prob(torch.where(inside, grid, y[0])).exp()
    for column, values, probability, possible in zip(
        y.T, grid.T, probabilities.T, inside.T, strict=True
    ):
        often = possible & (probability * len(y) > 5)
        counts = (column[:, None] == values[often]).sum(0)
        p_value = multinomial_goodness_of_fit(probability[often], counts, total_count=len(y))
        assert p_value > TEST_FAILURE_RATE


@each_law
def test_moments_are_those_of_samples(case: Case) -> None:
    law = case(4, 3)
    y = law.sample((20_000,))
    assert (standard_errors(y, law.mean) < 5).all()
    assert (standard_errors((y - law.mean).square(), law.variance) < 5).all()


@each_law
def test_samples_carry_no_gradient(case: Case) -> None:
    law = case.at(torch.randn(3, requires_grad=True))
    assert not law.sample((2,)).requires_grad


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 5)], ids=str)
@pytest.mark.parametrize("shape_type", SHAPE_TYPES)
@each_law
def test_sample_shapes(case: Case, sample_shape: tuple[int, ...], shape_type: type) -> None:
    law = case(4, 3)
    assert law.sample(shape_type(sample_shape)).shape == (*sample_shape, 4, 3)
    assert law(torch.Size(sample_shape)).shape == (*sample_shape, 4, 3)


@each_law
def test_score_function_gradient_is_that_of_the_second_moment(case: Case) -> None:
    eta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    law = case.at(eta)
    (expected,) = torch.autograd.grad((law.variance + law.mean.square()).sum(), eta)
    each = eta.detach().expand(20_000, 3).clone().requires_grad_()
    y = law.sample((20_000,))
    (score,) = torch.autograd.grad(case.at(each).log_prob(y).sum(), each)
    assert (standard_errors(score * y.square(), expected) < 5).all()


@each_reparameterised
def test_reparameterised_gradient_is_that_of_the_second_moment(case: Case) -> None:
    eta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    law = case.at(eta)
    (expected,) = torch.autograd.grad((law.variance + law.mean.square()).sum(), eta)
    each = eta.detach().expand(20_000, 3).clone().requires_grad_()
    y = case.at(each).rsample()
    (gradient,) = torch.autograd.grad(y.square().sum(), each)
    assert (standard_errors(gradient, expected) < 5).all()


@each_reparameterised
def test_reparameterised_samples_follow_the_law(case: Case) -> None:
    law = case(3)
    y = law.rsample((20_000,))
    assert y.shape == (20_000, 3)
    uniform = law.cdf(y)
    for column in uniform.T:
        assert scipy.stats.kstest(column.numpy(), "uniform").pvalue > TEST_FAILURE_RATE


@each_reparameterised
def test_reparameterised_gradient_is_implicit_differentiation(case: Case) -> None:
    law_of = case.at
    eta = torch.randn(3, dtype=torch.float64).requires_grad_()
    y = law_of(eta).rsample((50,))
    each = eta.detach().expand(50, 3).clone().requires_grad_()
    (of_cdf,) = torch.autograd.grad(law_of(each).cdf(y.detach()).sum(), each)
    implicit = -of_cdf / law_of(each).log_prob(y.detach()).exp()
    (ours,) = torch.autograd.grad(y.sum(), eta)
    torch.testing.assert_close(ours, implicit.sum(0))


@pytest.mark.parametrize("build", [distributions.Gamma, distributions.NegativeBinomial])
def test_gradients_flow_to_a_trained_size(build: Any) -> None:
    size = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    eta = torch.randn(4, 2, dtype=torch.float64)
    y = build(eta, size.detach()).sample()
    assert torch.autograd.gradcheck(lambda size: build(eta, size).log_prob(y), size)
    if build is distributions.Gamma:
        assert build(eta, size).rsample().requires_grad


def test_gradients_flow_to_a_trained_scale() -> None:
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    eta = torch.randn(4, 2, dtype=torch.float64)
    y = torch.randn(4, 2, dtype=torch.float64)
    ours = distributions.Gaussian(eta, scale)
    theirs = dist.Normal(scale * eta, scale)
    (gradient,) = torch.autograd.grad(ours.log_prob(y).sum(), scale)
    (expected,) = torch.autograd.grad(theirs.log_prob(y).sum(), scale)
    torch.testing.assert_close(gradient, expected)
    assert ours.rsample().requires_grad


@each_law
def test_score_parts_agree_with_has_rsample(case: Case) -> None:
    law = case(4, 3)
    parts = law.score_parts(law.sample())
    if law.has_rsample:
        assert parts.score_function == 0
        assert (parts.entropy_term == parts.log_prob).all()
    else:
        assert (parts.score_function == parts.log_prob).all()
        assert parts.entropy_term == 0
