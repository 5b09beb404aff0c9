"""Links against mpmath, and what every link has."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_expfam import links
from pyro_expfam.families import Binomial
from pyro_expfam.families.derivatives import derivatives
from pyro_expfam.links import Link

ON_THE_REAL_LINE = [
    links.Identity(),
    links.Log(),
    links.Logit(),
    links.Probit(),
    links.ComplementaryLogLog(),
    links.Softplus(),
]
ON_THE_HALF_LINE = [links.Reciprocal(), links.Power(2), links.Power(-0.5), links.Power(1 / 3)]
OF_ONE_S_OWN = [links.Mean(torch.sinh, torch.asinh), links.Mean(torch.exp)]
ALL_LINKS = [*ON_THE_REAL_LINE, *ON_THE_HALF_LINE, links.ReLU(), *OF_ONE_S_OWN]

each_link = pytest.mark.parametrize("link", ALL_LINKS, ids=repr)


def ndtr(x: Any) -> Any:
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


TAILS: list[tuple[str, Callable[[Tensor], Tensor], Callable[[Any], Any]]] = [
    ("softplus, mean", links.Softplus().mean, lambda x: mpmath.log1p(mpmath.exp(x))),
    (
        "softplus, log mean",
        links.Softplus().log_mean,
        lambda x: mpmath.log(mpmath.log1p(mpmath.exp(x))),
    ),
    ("logit, log mean", links.Logit().log_mean, lambda x: mpmath.log(sigmoid(x))),
    ("probit, log mean", links.Probit().log_mean, lambda x: mpmath.log(ndtr(x))),
    (
        "probit, log odds",
        links.Probit().log_odds,
        # One value of the error function takes half the time of two probabilities.
        lambda x: 2 * mpmath.atanh(mpmath.erf(x / mpmath.sqrt(2))),
    ),
    (
        "complementary log-log, log mean",
        links.ComplementaryLogLog().log_mean,
        lambda x: mpmath.log(-mpmath.expm1(-mpmath.exp(x))),
    ),
    (
        "complementary log-log, log odds",
        links.ComplementaryLogLog().log_odds,
        lambda x: mpmath.log(mpmath.expm1(mpmath.exp(x))),
    ),
]
PLACES = [-30.0, -9.1, -8.9, -3.0, -1.4, -0.2, 0.1, 2.5, 9.5, 30.0]


@pytest.mark.parametrize(("name", "function", "exact"), TAILS, ids=[name for name, *_ in TAILS])
def test_logarithms_have_four_accurate_derivatives_in_both_tails(name, function, exact):
    eta = torch.tensor(PLACES, dtype=torch.float64)
    found = torch.stack(derivatives(function, eta, 4), -1).tolist()
    for place, values in zip(PLACES, found, strict=True):
        # The chance of thirty standard deviations has 198 zeros, that of ten has 24.
        with mpmath.workdps(320 if abs(place) > 10 else 150):
            step = mpmath.mpf(10) ** -20
            wanted = mpmath.diffs(exact, mpmath.mpf(place), 4, h=step)
            for order, (value, exactly) in enumerate(zip(values, wanted, strict=True)):
                assert value == pytest.approx(float(exactly), rel=1e-8, abs=1e-300), (order, place)


@pytest.mark.parametrize(("name", "function", "exact"), TAILS, ids=[name for name, *_ in TAILS])
def test_single_precision_is_accurate_to_its_rounding(name, function, exact):
    eta = torch.tensor(PLACES[:-1])
    for single, double in zip(
        derivatives(function, eta, 2), derivatives(function, eta.double(), 2), strict=True
    ):
        torch.testing.assert_close(single.double(), double, rtol=3e-5, atol=1e-7)


def arguments(link: Link) -> Tensor:
    eta = torch.linspace(-4, 1.2, 18, dtype=torch.float64)
    return eta.exp() if link in ON_THE_HALF_LINE else eta


@each_link
def test_the_predictor_inverts_the_mean(link):
    eta = arguments(link)
    mean = link.mean(eta)
    try:
        found = link.predictor(mean)
    except NotImplementedError:
        assert link == links.Mean(torch.exp)
        return
    expected = eta.clamp(min=0) if link == links.ReLU() else eta
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each_link
def test_logarithms_are_those_of_the_mean(link):
    eta = arguments(link)
    mean = link.mean(eta)
    positive = mean > 0
    torch.testing.assert_close(link.log_mean(eta)[positive], mean[positive].log())
    share = positive & (mean < 1)
    torch.testing.assert_close(link.log_odds(eta)[share], torch.logit(mean[share]))


@each_link
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_links_keep_shape_and_dtype(link, dtype):
    eta = arguments(link).to(dtype).reshape(3, 6)
    for value in (link.mean(eta), link.log_mean(eta), link.log_odds(eta)):
        assert value.dtype == dtype
        assert value.shape == eta.shape


@each_link
def test_means_pass_gradcheck(link):
    eta = (arguments(link) + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(link.mean, eta, fast_mode=True)
    assert torch.autograd.gradgradcheck(link.mean, eta, fast_mode=True)


@pytest.mark.parametrize(
    ("link", "low", "high"),
    [
        (links.Log(), 0.0, math.inf),
        (links.Softplus(), 0.0, math.inf),
        (links.Logit(), 0.0, 1.0),
        (links.Probit(), 0.0, 1.0),
        (links.ComplementaryLogLog(), 0.0, 1.0),
    ],
    ids=repr,
)
def test_predictors_at_and_beyond_the_boundary_are_infinite(link, low, high):
    assert link.predictor(torch.tensor([low, low - 1])).tolist() == [-math.inf] * 2
    if math.isfinite(high):
        assert link.predictor(torch.tensor([high, high + 1])).tolist() == [math.inf] * 2


@each_link
def test_links_are_values(link):
    for copied in (pickle.loads(pickle.dumps(link)), copy.copy(link), copy.deepcopy(link)):
        assert copied == link
        assert hash(copied) == hash(link)
    assert len(set(ALL_LINKS)) == len(ALL_LINKS)
    name = next(iter(vars(link)), "exponent")
    with pytest.raises(AttributeError):
        setattr(link, name, 1.0)


def test_links_are_shown_as_they_are_written():
    assert repr(links.Probit()) == "Probit()"
    assert repr(links.Power(2)) == "Power(exponent=2.0)"
    assert repr(links.Mean(torch.sinh)) == "Mean(sinh)"
    assert repr(links.NaturalParameter(torch.asinh)) == "NaturalParameter(asinh)"


@pytest.mark.parametrize("exponent", [0, math.nan, math.inf])
def test_an_exponent_has_to_be_finite_and_not_zero(exponent):
    with pytest.raises(ValueError, match="exponent must be finite and not 0, got"):
        links.Power(exponent)


def test_reciprocal_and_power_agree():
    eta = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(links.Power(-1).mean(eta), links.Reciprocal().mean(eta))
    torch.testing.assert_close(links.Power(1).log_mean(eta), eta.log())


def test_every_public_name_exists():
    assert all(hasattr(links, name) for name in links.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("total", [1, 1000])
def test_a_rate_that_overflows_leaves_certain_outcomes_certain(dtype, total):
    family = Binomial(total, link=links.ComplementaryLogLog())
    eta = torch.tensor([60.0, 89.0, 300.0, 1e4, 1e30], dtype=dtype)
    loss, score, information = family.loss_score_information(eta, torch.full_like(eta, total))
    assert (loss == 0).all()
    assert (score == 0).all()
    assert (information == 0).all()
    # The other outcome is as good as impossible, but not undefined.
    loss, score, information = family.loss_score_information(eta, torch.zeros_like(eta))
    assert (loss > 1e20).all()
    assert (score < -1e20).all()
    assert not information.isnan().any()
