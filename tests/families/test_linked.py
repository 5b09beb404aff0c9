"""Families under a link: identities, what is convex, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from all_families import (
    CONVEX_LINKED,
    NOT_CONVEX,
    ON_THE_HALF_LINE,
    Geometric,
    minus_softplus_of_minus,
)
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families as F
from pyro_expfam import links
from pyro_expfam.families import Family, Linked, link_checks, linked

DERIVATIVES = ("loss", "score", "information", "third_derivative", "fourth_derivative")
ETA = torch.linspace(-30, 30, 61, dtype=torch.float64)


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# Identities


@pytest.mark.parametrize(
    ("linked", "plain", "values"),
    [
        (Linked(F.Bernoulli(), links.Logit()), F.Bernoulli(), (0.0, 1.0)),
        (Linked(F.Binomial(16), links.Logit()), F.Binomial(16), (0.0, 3.0, 16.0)),
        (Linked(F.Poisson(), links.Log()), F.Poisson(), (0.0, 1.0, 500.0)),
        (Linked(F.Gaussian(1.0), links.Identity()), F.Gaussian(1.0), (-3.0, 0.0, 50.0)),
        (Linked(F.Gamma(2.0), links.Log()), F.Gamma(2.0), (0.01, 1.0, 80.0)),
    ],
    ids=repr,
)
def test_the_own_link_gives_the_family_itself(linked, plain, values):
    assert linked.is_convex
    for y in values:
        for name in DERIVATIVES:
            found, expected = (getattr(x, name)(ETA, double(y)) for x in (linked, plain))
            torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-12, atol=1e-13)


def test_a_geometric_law_by_its_log_mean_is_a_negative_binomial_of_size_1():
    geometric = Linked(Geometric(), links.NaturalParameter(minus_softplus_of_minus))
    same = F.NegativeBinomial(1.0)
    assert geometric.is_convex
    for y in (0.0, 1.0, 40.0):
        torch.testing.assert_close(
            geometric.log_prob(double(y), ETA), same.log_prob(double(y), ETA), rtol=1e-9, atol=1e-12
        )
        for name in DERIVATIVES:
            expected = getattr(same, name)(ETA, double(y))
            torch.testing.assert_close(
                getattr(geometric, name)(ETA, double(y)), expected, rtol=1e-9, atol=1e-9
            )
    mean = geometric.expected_y(ETA)
    torch.testing.assert_close(mean, ETA.exp(), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(geometric.predictor(ETA.exp())[8:], ETA[8:], rtol=1e-5, atol=1e-5)


def test_a_bit_of_a_count_has_the_complementary_log_log_link():
    # A Poisson count is 0 with probability exp(-rate).
    bits = F.Bernoulli(link=links.ComplementaryLogLog())
    torch.testing.assert_close(
        bits.log_prob(double(0.0), ETA), F.Poisson().log_prob(double(0.0), ETA)
    )


def test_the_identity_of_a_gaussian_is_the_mean_in_units_of_the_observation():
    scale = double(3.0).requires_grad_()
    y = torch.randn(61, dtype=torch.float64)
    family = F.Gaussian(scale, link=links.Identity())
    expected = torch.distributions.Normal(ETA, scale).log_prob(y)
    torch.testing.assert_close(family.log_prob(y, ETA), expected)
    torch.testing.assert_close(
        torch.autograd.grad(family.loss(ETA, y).sum() - family.log_base_measure(y).sum(), scale),
        torch.autograd.grad(-expected.sum(), scale),
    )
    assert family.self_concordance == 0


# Types


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (F.Bernoulli(), F.Bernoulli),
        (F.Bernoulli(link=None), F.Bernoulli),
        (F.Bernoulli(link=links.Logit()), F.Bernoulli),
        (F.Binomial(3, link=links.Logit()), F.Binomial),
        (F.Binomial(total_count=3), F.Binomial),
        (F.Poisson(link=links.Log()), F.Poisson),
        (F.Gaussian(1.0, link=links.Identity()), F.Gaussian),
        (F.Gaussian(2.0, link=links.Identity()), Linked),
        (F.NegativeBinomial(2.0, link=links.Log()), F.NegativeBinomial),
        (F.Gamma(2.0, link=links.Log()), F.Gamma),
        (F.Bernoulli(link=links.Probit()), Linked),
    ],
    ids=repr,
)
def test_a_family_with_its_own_link_is_the_plain_family(family, kind):
    assert type(family) is kind


def test_a_linked_family_is_shown_as_it_is_written():
    assert repr(F.Bernoulli(link=links.Probit())) == "Bernoulli(link=Probit())"
    assert repr(F.Gaussian(2.0, link=links.Log())) == "Gaussian(scale=2.0, link=Log())"
    binomial = F.Binomial(16, link=links.Probit())
    assert repr(binomial) == "Binomial(total_count=16, link=Probit())"
    assert eval(repr(binomial), vars(F) | vars(links)) == binomial
    assert repr(Linked(F.Ising(), links.NaturalParameter(torch.asinh))) == (
        "Linked(Ising(), NaturalParameter(asinh))"
    )


def test_linked_families_are_equal_by_family_and_link():
    assert F.Bernoulli(link=links.Probit()) == F.Bernoulli(link=links.Probit())
    assert F.Bernoulli(link=links.Probit()) != F.Bernoulli(link=links.ComplementaryLogLog())
    assert F.Bernoulli(link=links.Probit()) != F.Bernoulli()
    scale = torch.ones(2)
    assert F.Gaussian(scale, link=links.Log()) == F.Gaussian(scale, link=links.Log())
    assert F.Gaussian(scale, link=links.Log()) != F.Gaussian(scale.clone(), link=links.Log())


def test_a_scale_to_be_learnt_is_learnt_under_a_link():
    family = F.Gaussian("per column", link=links.Softplus())
    assert {name: x.shape for name, x in family.to_learn(4).items()} == {"scale": (4,)}
    with pytest.raises(ValueError, match="scale must be known"):
        family.check_known()
    learnt = family.with_parameters({"scale": torch.full((4,), 2.0)})
    learnt.check_known()
    assert learnt.base.scale is learnt.parameters["scale"]
    assert learnt.link == family.link


# What is convex


@pytest.mark.parametrize("family", CONVEX_LINKED, ids=repr)
def test_losses_that_are_convex_are_found(family):
    assert family.is_convex


@pytest.mark.parametrize("family", NOT_CONVEX, ids=repr)
def test_losses_that_are_not_convex_are_found(family):
    assert not family.is_convex
    assert family.self_concordance is None


@pytest.mark.parametrize("family", [f for f in NOT_CONVEX if "ReLU" not in repr(f)], ids=repr)
def test_a_loss_that_is_not_convex_has_a_negative_second_derivative_somewhere(family):
    seen = [
        bool((family.curvature(ETA[:, None], double(y)) < -1e-12).any())
        for y in (-1e3, -1.0, 0.0, 1e-6, 1.0, 1e3)
        if bool(family.support.check(double(y)))
    ]
    assert any(seen)


def test_a_kink_that_turns_down_is_not_convex():
    family = F.Gaussian(1.0, link=links.ReLU())
    left, right = double(-1e-3), double(1e-3)
    y = double(2.0)
    assert family.score(left, y) < family.score(right, y)
    assert family.loss(left, y) == 0


def test_the_expected_information_is_the_mean_of_the_second_derivative():
    family = F.Gaussian(0.5, link=links.Log())
    eta = torch.linspace(-2, 2, 5, dtype=torch.float64)
    y = family.sample(eta, (100_000,))
    observed = family.curvature(eta.expand_as(y), y)
    error = observed.std(0) / math.sqrt(len(y))
    assert bool(((observed.mean(0) - family.information(eta, y[0])).abs() < 5 * error).all())


@pytest.mark.parametrize(
    ("family", "bound"),
    [
        (F.Bernoulli(link=links.Probit()), None),
        (F.Bernoulli(link=links.ComplementaryLogLog()), None),
        (F.Poisson(link=links.Softplus()), 1.0),
        (F.Gaussian(2.0, link=links.Identity()), 0.0),
        (Linked(F.Bernoulli(), links.Logit()), 1.0),
    ],
    ids=repr,
)
def test_self_concordance_is_known_or_none(family, bound):
    assert family.self_concordance == bound
    ratios = []
    for y in (0.0, 1.0):
        information = family.information(ETA, double(y))
        ratio = family.third_derivative(ETA, double(y)).abs() / information.clamp(min=1e-290)
        ratios.append(float(ratio[information > 1e-280].max()))
    # Without a bound the ratio grows with the linear predictor.
    assert max(ratios) > 10 if bound is None else max(ratios) <= bound + 1e-3


def test_the_information_is_bounded_or_not():
    assert F.Bernoulli(link=links.Probit()).bounded_variance
    assert F.Poisson(link=links.Softplus()).bounded_variance
    assert not F.Bernoulli(link=links.ComplementaryLogLog()).bounded_variance
    assert not F.Gaussian(1.0, link=links.Log()).bounded_variance


def test_intercepts_on_the_scale_of_the_mean_have_a_wide_prior():
    assert F.Poisson(link=links.Softplus()).weak_intercept_scale == 100_000
    assert F.Gaussian(2.0, link=links.Log()).weak_intercept_scale == 10
    assert Linked(F.Gaussian(1.0), links.Identity()).weak_intercept_scale == 1e10


# Domains


@pytest.mark.parametrize("family", ON_THE_HALF_LINE, ids=repr)
def test_outside_of_the_domain_the_loss_is_infinite(family):
    assert family.predictor_domain is constraints.positive
    y = double(2.0)
    for eta in (double(0.0), double(-1.0)):
        assert family.loss(eta, y) == math.inf
        assert family.loss_score_information(eta, y)[0] == math.inf
        assert family.log_prob(y, eta) == -math.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: F.Poisson(link=links.Identity()),
            r"got Identity\(\), whose mean is 0 at linear predictor 0: use Log\(\) or Softplus\(\)"
            r", or in a distribution Power\(1\)",
        ),
        (lambda: F.Poisson(link=links.ReLU()), r"ReLU\(\), whose mean is 0 .*: use Log\(\)"),
        (lambda: F.Gamma(2.0, link=links.Identity()), r"whose mean is 0 .*: use Log\(\)"),
        (
            lambda: F.Bernoulli(link=links.Log()),
            r"got Log\(\), whose mean is 1 at linear predictor 0: use Logit\(\), Probit\(\)",
        ),
        (lambda: F.Binomial(3, link=links.Softplus()), r"Softplus\(\), whose mean is 1\.\d+ at"),
        (
            lambda: Linked(Geometric(), links.NaturalParameter(torch.sinh)),
            r"NaturalParameter\(sinh\), whose natural parameter is 0 at linear predictor 0",
        ),
        (
            lambda: F.Bernoulli(link=links.Mean(torch.special.ndtr)),
            r"whose mean is 1 at linear predictor 8\.\d+",
        ),
    ],
)
def test_a_link_that_leaves_the_family_is_refused_with_the_place(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_no_link_is_refused():
    with pytest.raises(TypeError, match="link must be a link such as"):
        F.Bernoulli(link="probit")
    with pytest.raises(TypeError, match="base must be a family without a link"):
        Linked(F.Bernoulli(link=links.Probit()), links.Probit())
    for family in (F.Ising, F.ContinuousBernoulli):
        with pytest.raises(TypeError, match=rf"no link, got Probit.*Linked\({family.__name__}"):
            family(link=links.Probit())
    with pytest.raises(TypeError, match=r"Categorical takes no link, .* the softmax alone"):
        F.Categorical(3, link=links.Log())
    with pytest.raises(ValueError, match="base must have one linear predictor per column"):
        Linked(F.Categorical(3), links.NaturalParameter(lambda eta: 2 * eta))


@pytest.mark.parametrize("make", [links.Mean, links.NaturalParameter])
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda eta: eta.sum(), ValueError, r"must act elementwise, got a value of shape \(\)"),
        (lambda eta: eta - eta.mean(), ValueError, "changes with the other entries"),
        (lambda eta: None, TypeError, "must return a tensor, got NoneType"),
        (lambda eta: eta.detach().numpy(), TypeError, "must return a tensor, got ndarray"),
        (lambda eta: 0.3, TypeError, "must return a tensor, got float"),
        (lambda eta: eta.float(), TypeError, "must keep the dtype of its argument"),
        (lambda eta: torch.full_like(eta, 0.3), ValueError, r"depend .* whose value is 0.3 every"),
    ],
)
def test_a_function_that_is_no_link_is_refused(make, function, error, message):
    with pytest.raises(error, match=message):
        F.Gaussian(1.0, link=make(function))


def test_a_base_that_is_not_convex_is_refused():
    class Cauchy(Family):
        support = constraints.real

        def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
            return -torch.log1p((y - eta).square())

        def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
            raise NotImplementedError

        expected_y = variance_of_y = predictor = lambda self, eta: eta

    with pytest.raises(ValueError, match="base must have a convex loss"):
        Linked(Cauchy(), links.Softplus())


def test_a_mean_without_an_inverse_is_inverted_numerically():
    rising = F.Poisson(link=links.Mean(torch.exp))
    falling = F.Poisson(link=links.Mean(lambda eta: torch.exp(-eta)))
    y = torch.tensor([0.5, 1.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(rising.predictor(y), y.log(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(falling.predictor(y), -y.log(), rtol=1e-9, atol=1e-9)
    assert rising.predictor(double(0.0)) == -math.inf


def test_what_a_link_does_to_a_family_is_found_once_unless_it_may_change(monkeypatch):
    looked = []

    def has_convex_loss(family):
        looked.append(family)
        return link_checks.has_convex_loss(family)

    monkeypatch.setattr(linked, "has_convex_loss", has_convex_loss)
    first, second = (F.Binomial(77, link=links.Probit()) for _ in range(2))
    assert len(looked) == 1
    assert (first.is_convex, first.bounded_variance) == (second.is_convex, second.bounded_variance)
    totals = torch.tensor([3, 40])
    for make in (
        lambda: F.Binomial(totals, link=links.Probit()),
        lambda: F.Bernoulli(link=links.NaturalParameter(lambda eta: 2 * eta)),
    ):
        looked.clear()
        make()
        once = len(looked)
        make()
        assert len(looked) == 2 * once > 0
