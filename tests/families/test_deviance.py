"""Deviance, convex conjugate and Bregman divergence of every family."""

from __future__ import annotations

import math

import pytest
import torch
from all_families import ALL_FAMILIES, CANONICAL, ON_THE_HALF_LINE, Geometric, Logistic
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Columns,
    ContinuousBernoulli,
    ExponentialFamily,
    Family,
    Gamma,
    Gaussian,
    Ising,
    Linked,
    NegativeBinomial,
    Poisson,
)
from pyro_expfam.links import NaturalParameter


class Votes(ExponentialFamily):
    """A family of one function."""

    self_concordance = 2.0
    support = constraints.integer_interval(-1, 1)

    def log_partition(self, eta: Tensor) -> Tensor:
        return torch.stack([-eta, torch.zeros_like(eta), eta]).logsumexp(0)


class Skewed(Family):
    """A user's law whose density of an observation is not largest where it is the mean."""

    is_convex, self_concordance = True, 1.0
    support = constraints.real

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        # A Gumbel variable, whose mean is off its mode by Euler's constant.
        return -(y - eta) - torch.exp(-(y - eta))

    def sample(self, eta: Tensor, sample_shape=()) -> Tensor:
        return eta - torch.log(-torch.log(torch.rand(*sample_shape, *eta.shape, dtype=eta.dtype)))

    def expected_y(self, eta: Tensor) -> Tensor:
        return eta + 0.5772156649

    def variance_of_y(self, eta: Tensor) -> Tensor:
        return torch.full_like(eta, math.pi**2 / 6)

    def predictor(self, y: Tensor) -> Tensor:
        return y - 0.5772156649


def drawn(family, num_rows=40, dtype=torch.float64):
    torch.manual_seed(0)
    eta = (0.8 * torch.randn(num_rows, 3)).to(dtype)
    if family in ON_THE_HALF_LINE:
        eta = eta.abs() + 0.1
    if family.predictor_domain is Geometric.natural_domain:
        eta = -eta.abs() - 0.1
    return family.sample(eta), eta


@pytest.mark.parametrize("family", [*ALL_FAMILIES, Skewed()], ids=repr)
def test_the_log_density_is_the_largest_one_minus_half_the_deviance(family):
    y, eta = drawn(family)
    deviance = family.deviance(y, eta)
    found = family.saturated_log_prob(y) - 0.5 * deviance
    torch.testing.assert_close(found, family.log_prob(y, eta), rtol=1e-7, atol=1e-7)
    assert bool((deviance >= 0).all())
    # No linear predictor has a larger log density than the saturated model.
    others = torch.linspace(-20, 20, 81, dtype=torch.float64)[:, None, None]
    if family in ON_THE_HALF_LINE:
        others = others.exp()
    assert bool((family.log_prob(y, others) <= family.saturated_log_prob(y) + 1e-9).all())
    residual = family.deviance_residual(y, eta)
    torch.testing.assert_close(residual.square(), deviance)
    assert torch.equal(residual.sign(), torch.sign(y - family.expected_y(eta)) * (deviance > 0))


@pytest.mark.parametrize("family", CANONICAL, ids=repr)
def test_the_divergence_is_the_bregman_divergence_of_the_conjugate(family):
    y, eta = drawn(family)
    mean = family.mean(eta).requires_grad_()
    conjugate = family.convex_conjugate(mean)
    (slope,) = torch.autograd.grad(conjugate.sum(), mean)
    # The derivative of the conjugate is the natural parameter, and it is the supremum there.
    torch.testing.assert_close(slope, eta, rtol=1e-8, atol=1e-8)
    supremum = mean * eta - family.log_partition(eta)
    torch.testing.assert_close(conjugate, supremum, rtol=1e-9, atol=1e-9)
    statistic = family.sufficient_statistic(y)
    by_definition = family.convex_conjugate(statistic) - conjugate - (statistic - mean) * slope
    found = family.bregman_divergence(y, mean)
    torch.testing.assert_close(found, by_definition, rtol=1e-8, atol=1e-8)
    minus_log = found - family.saturated_log_prob(y)
    torch.testing.assert_close(-minus_log, family.log_prob(y, eta), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found, 0.5 * family.deviance(y, eta), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "family",
    [NegativeBinomial(0.4), NegativeBinomial(torch.tensor([0.5, 2.0, 30.0]).double()), Gamma(2.5)],
    ids=repr,
)
def test_families_of_a_log_mean_have_the_conjugate_of_their_natural_parameter(family):
    y, eta = drawn(family)
    mean = eta.exp().requires_grad_()
    conjugate = family.convex_conjugate(mean)
    (slope,) = torch.autograd.grad(conjugate.sum(), mean)
    by_definition = family.convex_conjugate(y) - conjugate - (y - mean) * slope
    torch.testing.assert_close(
        family.bregman_divergence(y, mean), by_definition, rtol=1e-8, atol=1e-8
    )
    # The log density is affine in y with the slope as coefficient, up to the base measure.
    difference = family.log_prob(y, eta) - family.log_prob(y, 0 * eta)
    at_zero = torch.ones_like(mean).requires_grad_()
    (other,) = torch.autograd.grad(family.convex_conjugate(at_zero).sum(), at_zero)
    constant = difference - y * (slope - other)
    expected = (conjugate - mean * slope) - (family.convex_conjugate(at_zero) - at_zero * other)
    torch.testing.assert_close(constant, expected, rtol=1e-8, atol=1e-8)


def test_deviances_have_the_closed_forms_of_textbooks():
    y = torch.tensor([0.0, 1.0, 7.0]).double()[:, None]
    mean = torch.tensor([0.3, 2.0, 9.0]).double()
    xlogy = torch.special.xlogy
    cases = {
        Gaussian(1.0): (mean, (y - mean).square()),
        Gaussian(2.0): (mean / 2, (y - mean).square() / 4),
        Poisson(): (mean.log(), 2 * (xlogy(y, y / mean) - (y - mean))),
        NegativeBinomial(3.0): (
            mean.log(),
            2 * (xlogy(y, y / mean) - (y + 3) * torch.log((y + 3) / (mean + 3))),
        ),
        Binomial(20): (
            torch.logit(mean / 20),
            2 * (xlogy(y, y / mean) + xlogy(20 - y, (20 - y) / (20 - mean))),
        ),
        Gamma(2.5): (
            mean.log(),
            2 * 2.5 * (-torch.log((y + 1) / mean) + (y + 1 - mean) / mean),
        ),
    }
    for family, (eta, expected) in cases.items():
        seen = y + 1 if isinstance(family, Gamma) else y
        torch.testing.assert_close(family.deviance(seen, eta), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "y", "conjugate", "saturated"),
    [
        (Poisson(), [0.0, 4.0], [0.0, 4 * math.log(4) - 4], [0.0, stats.poisson.logpmf(4, 4)]),
        (Bernoulli(), [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
        (Ising(), [-1.0, 1.0], [math.log(2)] * 2, [0.0, 0.0]),
        (Binomial(5), [0.0, 5.0], [0.0, 0.0], [0.0, 0.0]),
        (NegativeBinomial(2.0), [0.0], [0.0], [0.0]),
        (Votes(), [-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
        (ContinuousBernoulli(), [0.0, 1.0], [math.inf] * 2, [math.inf] * 2),
        (Geometric(), [0.0], [0.0], [0.0]),
    ],
    ids=lambda x: str(x) if isinstance(x, Family) else "",
)
def test_edges_of_the_means_are_limits(family, y, conjugate, saturated):
    y = torch.tensor(y).double()
    found = family.convex_conjugate(y)
    torch.testing.assert_close(found, torch.tensor(conjugate).double(), rtol=1e-8, atol=1e-8)
    largest = family.saturated_log_prob(y)
    torch.testing.assert_close(largest, torch.tensor(saturated).double(), rtol=1e-8, atol=1e-8)
    # Accurate where the mean is close to the edge, too.
    eta = torch.full_like(y, -4.0)
    if bool(largest.isfinite().all()):
        expected = -2 * (family.log_prob(y, eta) - largest)
        torch.testing.assert_close(family.deviance(y, eta), expected, rtol=1e-12, atol=0)
    else:
        assert bool(family.deviance(y, eta).isinf().all())


@pytest.mark.parametrize(
    ("family", "outside"),
    [
        (Poisson(), -0.5),
        (Bernoulli(), 1.5),
        (Ising(), -1.5),
        (Binomial(5), 6.0),
        (Votes(), 1.5),
        (Gamma(2.0), -1.0),
        (NegativeBinomial(2.0), -0.1),
    ],
    ids=str,
)
def test_the_conjugate_is_infinite_outside_of_the_means(family, outside):
    assert family.convex_conjugate(torch.tensor([outside]).double()).item() == math.inf


def test_infinite_natural_parameters_are_certain_outcomes():
    end = torch.tensor([-math.inf, -math.inf])
    for family in (Poisson(), Bernoulli(), Binomial(3)):
        found = family.deviance(torch.tensor([0.0, 1.0]), end)
        assert found.tolist() == [0.0, math.inf]
        assert family.bregman_divergence(torch.tensor([0.0, 1.0]), torch.zeros(2)).tolist() == [
            0.0,
            math.inf,
        ]
    assert Bernoulli().deviance(torch.ones(1), -end[:1]).tolist() == [0.0]
    mean = torch.zeros(2)
    assert NegativeBinomial(2.0).bregman_divergence(torch.tensor([0.0, 1.0]), mean).tolist() == [
        0.0,
        math.inf,
    ]


def test_single_precision_keeps_small_deviances_of_large_counts():
    y = torch.tensor([1e6, 1e6])
    eta = torch.log(y) + torch.tensor([1e-5, 1.5])
    precise = y.double()
    for family in (Poisson(), NegativeBinomial(0.4), Gamma(2.0)):
        found = family.deviance(y, eta)
        expected = 2 * (family.saturated_log_prob(precise) - family.log_prob(precise, eta.double()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=0)


def test_a_link_keeps_the_best_mean_of_the_family():
    y, eta = torch.tensor([-3.0]).double(), torch.tensor([0.2]).double()
    family = Gaussian(1.0, link=NaturalParameter(torch.nn.functional.softplus))
    mean = torch.nn.functional.softplus(eta)
    torch.testing.assert_close(family.deviance(y, eta), (y - mean).square())
    assert isinstance(family, Linked)
    torch.testing.assert_close(
        family.bregman_divergence(y, mean), Gaussian(1.0).bregman_divergence(y, mean)
    )


def test_categories_have_the_deviance_of_their_levels():
    torch.manual_seed(0)
    family = Categorical(3)
    eta = torch.randn(30, 6).double()
    y = family.sample(eta)
    by_column = family.deviance(y, eta).unflatten(-1, (2, 3)).sum(-1)
    probability = (family.expected_y(eta) * y).unflatten(-1, (2, 3)).sum(-1)
    torch.testing.assert_close(by_column, -2 * probability.log())
    divergence = family.bregman_divergence(y, family.expected_y(eta))
    torch.testing.assert_close(divergence, 0.5 * family.deviance(y, eta))
    entropy = -family.convex_conjugate(family.expected_y(eta)).unflatten(-1, (2, 3)).sum(-1)
    torch.testing.assert_close(entropy, family.entropy(eta))


def test_columns_have_the_deviances_of_their_parts():
    torch.manual_seed(0)
    family = Columns([(slice(0, 1), Bernoulli()), (slice(1, 3), Poisson())])
    eta = torch.randn(20, 3).double()
    y = family.sample(eta)
    expected = torch.cat(
        [Bernoulli().deviance(y[:, :1], eta[:, :1]), Poisson().deviance(y[:, 1:], eta[:, 1:])], -1
    )
    assert torch.equal(family.deviance(y, eta), expected)
    torch.testing.assert_close(
        family.saturated_log_prob(y) - 0.5 * expected, family.log_prob(y, eta)
    )
    means = family.expected_y(eta)
    torch.testing.assert_close(family.bregman_divergence(y, means), 0.5 * expected)
    assert family.convex_conjugate(means).shape == y.shape


def test_a_law_that_is_no_exponential_family_says_so():
    one = torch.ones(1)
    for call in (Logistic().convex_conjugate, lambda x: Logistic().bregman_divergence(x, x)):
        with pytest.raises(NotImplementedError, match="is no exponential family"):
            call(one)


@pytest.mark.parametrize("family", [Poisson(), Bernoulli(), NegativeBinomial(2.0)], ids=str)
def test_the_gradient_of_a_deviance_is_twice_the_negative_score(family):
    y, eta = drawn(family)
    eta = eta.requires_grad_()
    (slope,) = torch.autograd.grad(family.deviance(y, eta).sum(), eta)
    torch.testing.assert_close(slope, -2 * family.score(eta, y), rtol=1e-7, atol=1e-9)
