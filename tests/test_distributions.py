"""Properties of the Pyro distributions: the checks that Pyro makes of its own, on each of ours."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.testing.gof import auto_goodness_of_fit, multinomial_goodness_of_fit
from pyro.distributions.util import broadcast_shape, deep_to, detach, scale_and_mask
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import PyroOptim
from quick_cases import in_turn
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from pyro_expfam import distributions, families, links
from pyro_expfam.distributions import (
    ExponentialFamilyDistribution,
    FamilyDistribution,
    distribution,
)
from pyro_expfam.distributions.of_family import CLASSES
from pyro_expfam.families import ExponentialFamily

TEST_FAILURE_RATE = 1e-4
COUNTS = torch.tensor([1.0, 4.0, 7.0])
SCALES = torch.tensor([0.5, 1.0, 3.0])


@dataclass(frozen=True, eq=False)
class WaitingTime(ExponentialFamily):
    """A user's family with a restricted domain and a decreasing statistic: waiting times."""

    natural_domain = constraints.positive
    self_concordance = math.inf
    support = constraints.nonnegative

    def sufficient_statistic(self, y: Tensor) -> Tensor:
        return 2 - y

    def observation(self, statistic: Tensor) -> Tensor:
        return 2 - statistic

    def log_base_measure(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        return torch.zeros_like(eta)

    def log_partition(self, eta: Tensor) -> Tensor:
        return 2 * eta - eta.log()

    def mean(self, eta: Tensor) -> Tensor:
        return 2 - eta.reciprocal()

    def variance(self, eta: Tensor) -> Tensor:
        return eta.pow(-2)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        return -2 * eta.pow(-3)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        return 6 * eta.pow(-4)

    def natural_param(self, mean: Tensor) -> Tensor:
        return (2 - mean).reciprocal()

    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        return torch.empty((*sample_shape, *eta.shape), dtype=eta.dtype).exponential_() / eta


class Reference:
    """SciPy's frozen distribution of ``shift + slope * x``, for a slope of 1 or -1 or a lattice."""

    def __init__(self, frozen: Any, slope: float = 1.0, shift: float = 0.0) -> None:
        self.frozen, self.slope, self.shift = frozen, slope, shift
        self.discrete = hasattr(frozen.dist, "pmf")

    def logpdf(self, y: np.ndarray) -> np.ndarray:
        x = (y - self.shift) / self.slope
        return self.frozen.logpmf(x) if self.discrete else self.frozen.logpdf(x)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        x = (y - self.shift) / self.slope
        return self.frozen.cdf(x) if self.slope > 0 else self.frozen.sf(x)

    def mean(self) -> np.ndarray:
        return self.shift + self.slope * self.frozen.mean()

    def var(self) -> np.ndarray:
        return self.slope**2 * self.frozen.var()

    def entropy(self) -> np.ndarray:
        return self.frozen.entropy()


def expit(eta: float) -> float:
    return 1 / (1 + math.exp(-eta))


def truncated_exponential(eta: float) -> Reference:
    if eta == 0:
        return Reference(scipy.stats.uniform())
    frozen = scipy.stats.truncexpon(b=abs(eta), scale=1 / abs(eta))
    return Reference(frozen) if eta < 0 else Reference(frozen, slope=-1, shift=1)


@dataclass(frozen=True)
class Case:
    """A class, how to build it, and what SciPy makes of one natural parameter.

    Attributes:
        name: shown by pytest.
        build: makes the law from a natural parameter.
        reference: SciPy's law of one natural parameter, for the last column of a batch.
        domain: maps a real number into the natural domain.
        argument: the name of the linear predictor.
    """

    name: str
    build: Any
    reference: Callable[[float], Reference]
    arguments: dict[str, Any]
    domain: Callable[[Tensor], Tensor] = lambda eta: eta
    argument: str = "natural_param"

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float64) -> Any:
        return self.at(torch.randn(shape, dtype=dtype))

    def at(self, eta: Tensor, **options: Any) -> Any:
        return self.given(self.domain(eta), **options)

    def given(self, eta: Any, **options: Any) -> Any:
        return self.build(**{self.argument: eta}, **self.arguments, **options)


def gaussian(scale: float) -> Callable[[float], Reference]:
    return lambda eta: Reference(scipy.stats.norm(scale * eta, scale))


def binomial(count: int) -> Callable[[float], Reference]:
    return lambda eta: Reference(scipy.stats.binom(count, expit(eta)))


def negative_binomial(size: float) -> Callable[[float], Reference]:
    return lambda eta: Reference(scipy.stats.nbinom(size, size / (size + math.exp(eta))))


def gamma(shape: float) -> Callable[[float], Reference]:
    return lambda eta: Reference(scipy.stats.gamma(shape, scale=math.exp(eta) / shape))


def beta(precision: float) -> Callable[[float], Reference]:
    return lambda eta: Reference(scipy.stats.beta(precision * expit(eta), precision * expit(-eta)))


class Counts(Reference):
    """A law of counts by its probabilities of 0, 1, 2, ..."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities, self.counts = probabilities, np.arange(len(probabilities))

    def logpdf(self, y: np.ndarray) -> np.ndarray:
        return np.log(self.probabilities[np.asarray(y, dtype=int)])

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return np.cumsum(self.probabilities)[np.asarray(y, dtype=int)]

    def mean(self) -> np.ndarray:
        return (self.probabilities * self.counts).sum()

    def var(self) -> np.ndarray:
        return (self.probabilities * (self.counts - self.mean()) ** 2).sum()

    def entropy(self) -> np.ndarray:
        return scipy.stats.entropy(self.probabilities)


def zero_truncated(eta: float) -> Counts:
    probabilities = scipy.stats.poisson(math.exp(eta)).pmf(np.arange(400))
    probabilities[0] = 0
    return Counts(probabilities / probabilities.sum())


def zero_inflated(counts: Any, share: float) -> Counts:
    probabilities = (1 - share) * counts.pmf(np.arange(3000))
    probabilities[0] += share
    return Counts(probabilities)


class Tweedie(Reference):
    """The Poisson sum of gamma variables, by the number of them."""

    def __init__(self, eta: float, power: float, dispersion: float) -> None:
        mean = math.exp(eta)
        self.moments = mean, dispersion * mean**power
        self.number = scipy.stats.poisson(mean ** (2 - power) / (dispersion * (2 - power)))
        self.shape = (2 - power) / (power - 1)
        self.scale = dispersion * (power - 1) * mean ** (power - 1)

    def logpdf(self, y: np.ndarray) -> np.ndarray:
        if float(y) == 0:
            return self.number.logpmf(0)
        number = np.arange(1, 500)
        densities = scipy.stats.gamma(number * self.shape, scale=self.scale).logpdf(float(y))
        return scipy.special.logsumexp(self.number.logpmf(number) + densities)

    def mean(self) -> np.ndarray:
        return np.asarray(self.moments[0])

    def var(self) -> np.ndarray:
        return np.asarray(self.moments[1])


def poisson_log_normal(scale: float) -> Callable[[float], Counts]:
    def of(eta: float) -> Counts:
        effect = scale * np.linspace(-9, 9, 401)[:, None]
        weight = scipy.stats.norm.pdf(effect / scale) / scipy.stats.norm.pdf(effect / scale).sum()
        counts = scipy.stats.poisson(np.exp(eta + effect)).pmf(np.arange(1000))
        return Counts((weight * counts).sum(0))

    return of


def bose_einstein(eta: float) -> Counts:
    """Order 1, by the Fourier transform of the rates of the bunches."""
    sizes = np.arange(1, 4096)
    rates = np.concatenate([[0], expit(eta) ** sizes / sizes**2.0])
    characteristic = np.exp(np.fft.fft(rates) - rates.sum())
    return Counts(np.fft.ifft(characteristic).real.clip(1e-300))


def tweedie(power: float, dispersion: float) -> Callable[[float], Reference]:
    return lambda eta: Tweedie(eta, power, dispersion)


CASES = [
    Case("Gaussian", distributions.Gaussian, gaussian(1.0), {}),
    Case("Gaussian-scale", distributions.Gaussian, gaussian(2.5), {"scale": 2.5}),
    Case("Gaussian-scales", distributions.Gaussian, gaussian(3.0), {"scale": SCALES}),
    Case(
        "Bernoulli",
        distributions.Bernoulli,
        lambda eta: Reference(scipy.stats.bernoulli(expit(eta))),
        {},
    ),
    Case(
        "Ising",
        distributions.Ising,
        lambda eta: Reference(scipy.stats.bernoulli(expit(2 * eta)), slope=2, shift=-1),
        {},
    ),
    Case("ContinuousBernoulli", distributions.ContinuousBernoulli, truncated_exponential, {}),
    Case(
        "Poisson",
        distributions.Poisson,
        lambda eta: Reference(scipy.stats.poisson(math.exp(eta))),
        {},
    ),
    Case("Binomial", distributions.Binomial, binomial(6), {"total_count": 6}),
    Case("Binomial-counts", distributions.Binomial, binomial(7), {"total_count": COUNTS}),
    Case(
        "generic-WaitingTime",
        ExponentialFamilyDistribution,
        lambda eta: Reference(scipy.stats.expon(scale=math.exp(-eta))),
        {"family": WaitingTime()},
        torch.exp,
    ),
    Case(
        "NegativeBinomial",
        distributions.NegativeBinomial,
        negative_binomial(0.7),
        {"size": 0.7},
        argument="predictor",
    ),
    Case(
        "NegativeBinomial-sizes",
        distributions.NegativeBinomial,
        negative_binomial(3.0),
        {"size": SCALES},
        argument="predictor",
    ),
    Case(
        "PoissonLogNormal",
        distributions.PoissonLogNormal,
        poisson_log_normal(0.6),
        {"scale": 0.6},
        argument="predictor",
    ),
    Case(
        "BoseEinstein",
        distributions.BoseEinstein,
        bose_einstein,
        {"order": 1},
        lambda eta: eta.clamp(max=2.5),
        argument="predictor",
    ),
    Case("Gamma", distributions.Gamma, gamma(2.5), {"concentration": 2.5}, argument="predictor"),
    Case(
        "Gamma-shapes",
        distributions.Gamma,
        gamma(3.0),
        {"concentration": SCALES},
        argument="predictor",
    ),
    Case(
        "Geometric",
        distributions.Geometric,
        negative_binomial(1.0),
        {},
        argument="predictor",
    ),
    Case("Exponential", distributions.Exponential, gamma(1.0), {}, argument="predictor"),
    Case(
        "Weibull",
        distributions.Weibull,
        lambda eta: Reference(scipy.stats.weibull_min(3.0, scale=math.exp(eta / 3))),
        {"concentration": SCALES},
        argument="predictor",
    ),
    Case(
        "Pareto",
        distributions.Pareto,
        lambda eta: Reference(scipy.stats.pareto(math.exp(-eta), scale=2.0)),
        {"scale": 2.0},
        lambda eta: -2 - eta.abs(),
        argument="predictor",
    ),
    Case(
        "LogNormal",
        distributions.LogNormal,
        lambda eta: Reference(scipy.stats.lognorm(0.4, scale=math.exp(0.4 * eta))),
        {"scale": 0.4},
        argument="predictor",
    ),
    Case("Beta", distributions.Beta, beta(3.0), {"precision": SCALES}, argument="predictor"),
    Case(
        "Tweedie",
        distributions.Tweedie,
        tweedie(1.4, 0.8),
        {"power": 1.4, "dispersion": 0.8},
        argument="predictor",
    ),
    Case("ZeroTruncatedPoisson", distributions.ZeroTruncatedPoisson, zero_truncated, {}),
    Case(
        "ZeroInflatedPoisson",
        distributions.ZeroInflatedPoisson,
        lambda eta: zero_inflated(scipy.stats.poisson(math.exp(eta)), 0.3),
        {"zero_probability": 0.3},
        argument="predictor",
    ),
    Case(
        "ZeroInflatedNegativeBinomial",
        distributions.ZeroInflatedNegativeBinomial,
        lambda eta: zero_inflated(scipy.stats.nbinom(2.0, 2 / (2 + math.exp(eta))), 0.3),
        {"size": 2.0, "zero_probability": 0.3},
        argument="predictor",
    ),
    Case(
        "Ordinal",
        distributions.Ordinal,
        lambda eta: Counts(np.diff([0, *(expit(c - eta) for c in (-1.0, 0.5, 1.0)), 1])),
        {"cut_points": [-1.0, 0.5, 1.0]},
        argument="predictor",
    ),
    Case(
        "linked-probit",
        FamilyDistribution,
        lambda eta: Reference(scipy.stats.bernoulli(scipy.stats.norm.cdf(eta))),
        {"family": families.Bernoulli(link=links.Probit())},
        argument="predictor",
    ),
    Case(
        "linked-softplus",
        FamilyDistribution,
        lambda eta: Reference(scipy.stats.poisson(math.log1p(math.exp(eta)))),
        {"family": families.Poisson(link=links.Softplus())},
        argument="predictor",
    ),
    Case(
        "linked-scales",
        FamilyDistribution,
        lambda eta: Reference(scipy.stats.norm(math.exp(eta), 3.0)),
        {"family": families.Gaussian(SCALES, link=links.Log())},
        argument="predictor",
    ),
    Case(
        "generic-Gaussian",
        ExponentialFamilyDistribution,
        gaussian(0.7),
        {"family": families.Gaussian(0.7)},
    ),
]
GENERIC = (ExponentialFamilyDistribution, FamilyDistribution)
IS_DISCRETE = {
    "Bernoulli",
    "Ising",
    "Poisson",
    "PoissonLogNormal",
    "BoseEinstein",
    "Binomial",
    "NegativeBinomial",
    "Geometric",
    "Ordinal",
    "ZeroTruncatedPoisson",
    "ZeroInflatedPoisson",
    "ZeroInflatedNegativeBinomial",
}
DISCRETE_LINKED = {"linked-probit", "linked-softplus"}
SHAPE_TYPES = [torch.Size, tuple, list]
EXPANDS = {"own": type(CASES[0](1)).expand, "default": TorchDistribution.expand}


def each(cases: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(cases), ids=lambda case: case.name)


each_law = each(CASES)
each_discrete = each(c for c in CASES if c(1).support.is_discrete)
each_continuous = each(c for c in CASES if not c(1).support.is_discrete)
each_reparameterised = each(c for c in CASES if c(1).has_rsample)
each_with_quantiles = each(c for c in CASES if c(1).has_rsample and not c.name.startswith("Gamma"))
# Without a closed form.
WITHOUT_ENTROPY = (
    "BoseEinstein",
    "NegativeBinomial",
    "PoissonLogNormal",
    "Tweedie",
    "ZeroInflated",
)
each_with_divergence = each(
    c for c in CASES if not c.name.startswith(("ZeroInflated", "PoissonLogNormal"))
)
# Under other laws the maximum likelihood does not have the mean of the observations.
each_with_the_mean = each(
    c
    for c in CASES
    if not c.name.startswith(
        ("Weibull", "LogNormal", "PoissonLog", "Beta", "Pareto", "ZeroInflatedNeg", "Ordinal")
    )
)
each_with_entropy = each(c for c in CASES if not c.name.startswith(WITHOUT_ENTROPY))
each_enumerable = each(c for c in CASES if c.name in {"Bernoulli", "Ising", "Binomial", "Ordinal"})
each_two_point = each(c for c in CASES if c.name in {"Bernoulli", "Ising"})
# Torch has no incomplete beta function, and a generic family no closed form.
each_with_cdf = each(
    c
    for c in CASES
    if not c.name.startswith(
        (
            "BoseEinstein",
            "Binomial",
            "Negative",
            "PoissonLog",
            "linked",
            "generic",
            "Beta",
            "Tweedie",
            "ZeroInflated",
        )
    )
)
# A single row has the shape of a tensor parameter, not of a scalar.
each_of_number_parameters = each(
    c for c in CASES if not any(isinstance(value, Tensor) for value in c.arguments.values())
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    pyro.set_rng_seed(20240607)


def standard_errors(draws: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors the means of draws are from what is expected."""
    error = draws.std(0) / math.sqrt(len(draws))
    return (draws.mean(0) - expected).abs() / error


# What the law is


@each_law
def test_support_contains_samples(case: Case) -> None:
    law = case(4, 3)
    y = law.sample((100,))
    assert law.support.event_dim == law.event_dim == 0
    inside = law.support.check(y)
    assert inside.shape == y.shape
    assert inside.all()


@each_law
def test_support_is_discrete_exactly_for_counts_and_signs(case: Case) -> None:
    discrete = case.name.split("-")[0] in IS_DISCRETE or case.name in DISCRETE_LINKED
    assert case(3).support.is_discrete == discrete
    if case.build not in GENERIC:
        assert case.build.support.is_discrete == discrete
    assert case.build.support.event_dim == 0


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (2, 1, 3)], ids=str)
@each_law
def test_infer_shapes_foretells_the_shapes(case: Case, shape: tuple[int, ...]) -> None:
    law = case(*shape)
    if case.build in GENERIC and law.batch_shape != shape:
        return  # the tensors inside of a family are not told
    arguments = {case.argument: torch.Size(shape)} | {
        name: value.shape if isinstance(value, Tensor) else ()
        for name, value in case.arguments.items()
    }
    assert case.build.infer_shapes(**arguments) == (law.batch_shape, law.event_shape)
    assert law.sample().shape == law.shape()


@each_law
def test_arguments_have_constraints_that_their_values_meet(case: Case) -> None:
    law = case(4, 3)
    parameters = inspect.signature(case.build).parameters
    assert set(law.arg_constraints) == set(parameters) - {"family", "validate_args"}
    for name, constraint in law.arg_constraints.items():
        assert constraint.check(getattr(law, name)).all()
        if name != "cut_points":
            assert getattr(law, name).shape == law.batch_shape


@each_law
def test_log_prob_is_that_of_scipy(case: Case) -> None:
    law = case(50, 3)
    y = law.sample()
    expected = [
        float(case.reference(float(eta)).logpdf(value))
        for eta, value in zip(
            case_eta(case, law)[:, -1].tolist(), y[:, -1].double().tolist(), strict=True
        )
    ]
    torch.testing.assert_close(
        law.log_prob(y)[:, -1], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-10
    )


def case_eta(case: Case, law: ExponentialFamilyDistribution) -> Tensor:
    """The real numbers that the case maps into the natural domain."""
    return law._eta.log() if case.domain is torch.exp else law._eta


@each_law
def test_an_entropy_without_closed_form_is_refused(case: Case) -> None:
    law = case(3)
    if case.name.startswith(WITHOUT_ENTROPY):
        with pytest.raises(NotImplementedError, match="entropy"):
            law.entropy()
    else:
        assert law.entropy().isfinite().all()


@pytest.mark.parametrize("moment", ["mean", "variance", "entropy"])
@each_law
def test_moments_and_entropy_are_those_of_scipy(case: Case, moment: str) -> None:
    if moment == "entropy" and case.name.startswith(WITHOUT_ENTROPY):
        return
    law = case(10, 3)
    references = [case.reference(eta) for eta in case_eta(case, law)[:, -1].tolist()]
    ours = law.entropy() if moment == "entropy" else getattr(law, moment)
    theirs = [float(getattr(r, {"variance": "var"}.get(moment, moment))()) for r in references]
    assert ours.shape == law.batch_shape
    # SciPy sums some of these numerically.
    torch.testing.assert_close(
        ours[:, -1], torch.tensor(theirs, dtype=torch.float64), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("sample_shape", [(), (1,), (5,), (2, 5)], ids=str)
@each_law
def test_log_prob_has_the_broadcast_shape(case: Case, sample_shape: tuple[int, ...]) -> None:
    law = case(4, 3)
    y = law.sample(sample_shape)
    assert y.shape == (*sample_shape, 4, 3)
    assert law.log_prob(y).shape == y.shape
    assert law.log_prob(y[..., :1, :1]).shape == broadcast_shape(y[..., :1, :1].shape, (4, 3))
    assert law.to_event(1).log_prob(y).shape == (*sample_shape, 4)
    assert law.mean.shape == law.variance.shape == (4, 3)
    torch.testing.assert_close(law.stddev, law.variance.sqrt())


@each_law
def test_shapes_that_do_not_fit_are_refused(case: Case) -> None:
    law = case(2, 3)
    value = law.sample()[:1]
    with pytest.raises(ValueError, match="not broadcastable"):
        law.log_prob(value.expand(4, 3))
    with pytest.raises(ValueError, match="event_shape"):
        law.to_event(1).log_prob(value.unsqueeze(-1).expand(2, 3, 1))


# Samples


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


# Gradients


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


# Distribution functions


@each_with_cdf
def test_cdf_is_that_of_scipy(case: Case) -> None:
    law = case(20, 3)
    y = law.sample()
    expected = [
        float(case.reference(eta).cdf(value))
        for eta, value in zip(law._eta[:, -1].tolist(), y[:, -1].tolist(), strict=True)
    ]
    torch.testing.assert_close(
        law.cdf(y)[:, -1], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@each_with_quantiles
def test_icdf_inverts_cdf(case: Case) -> None:
    law = case(4, 3)
    uniform = torch.rand(100, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.icdf(uniform)), uniform)
    y = law.sample((100,))
    torch.testing.assert_close(law.icdf(law.cdf(y)), y)


@each_two_point
def test_cdf_steps_between_the_values(case: Case) -> None:
    law = case(5)
    low, high = law.enumerate_support()
    unchecked = case.at(law._eta, validate_args=False)
    torch.testing.assert_close(unchecked.cdf(low), law.log_prob(low).exp())
    torch.testing.assert_close(unchecked.cdf(0.5 * (low + high)), law.log_prob(low).exp())
    assert (unchecked.cdf(low - 1) == 0).all()
    assert (unchecked.cdf(high) == 1).all()


def test_poisson_cdf_is_the_sum_of_probabilities() -> None:
    law = distributions.Poisson(torch.randn(5, dtype=torch.float64), validate_args=False)
    values = torch.arange(20.0, dtype=torch.float64)[:, None]
    summed = law.log_prob(values).exp().cumsum(0)
    torch.testing.assert_close(law.cdf(values), summed)
    torch.testing.assert_close(law.cdf(values + 0.5), summed)
    assert (law.cdf(torch.tensor(-1.0)) == 0).all()
    value = values.clone().requires_grad_()
    assert not law.cdf(value).requires_grad


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-6, 1e-4), (torch.float64, 1e-13, 1e-10)],
    ids=str,
)
def test_continuous_bernoulli_quantiles_are_exact_at_every_parameter(
    dtype: torch.dtype, value_tolerance: float, gradient_tolerance: float
) -> None:
    edge = 4 * torch.finfo(dtype).eps ** (1 / 6)
    sizes = torch.tensor(
        [0.0, 1e-30, 1e-8, 1e-3, 0.9 * edge, 1.1 * edge, 0.5, 2.0, 20.0, 200.0], dtype=dtype
    )
    eta = torch.cat([-sizes, sizes])[:, None].requires_grad_()
    uniform = torch.tensor([0.001, 0.2, 0.5, 0.75, 0.99], dtype=dtype)
    each = eta.expand(-1, len(uniform))
    y = distributions.ContinuousBernoulli(each).icdf(uniform)
    (gradient,) = torch.autograd.grad(y.sum(), each)
    expected = [[quantile(e, u) for u in uniform.tolist()] for e in eta[:, 0].tolist()]
    exact = torch.tensor([[q for q, _ in row] for row in expected], dtype=torch.float64)
    slope = torch.tensor([[s for _, s in row] for row in expected], dtype=torch.float64)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=value_tolerance)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=gradient_tolerance, atol=gradient_tolerance / 10
    )


def quantile(eta: float, uniform: float) -> tuple[float, float]:
    """The quantile of the continuous Bernoulli and its derivative, to fifty digits more."""
    with mpmath.workdps(80):
        r, u = mpmath.mpf(eta), mpmath.mpf(uniform)
        if r == 0:
            return float(u), float(u * (1 - u) / 2)
        y = mpmath.log1p(u * mpmath.expm1(r)) / r
        return float(y), float((mpmath.expm1(-r * y) / mpmath.expm1(-r) - y) / r)


def test_continuous_bernoulli_quantiles_reach_both_ends() -> None:
    eta = torch.tensor([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    law = distributions.ContinuousBernoulli(eta)
    assert (law.icdf(torch.zeros(5)) == 0).all()
    assert (law.icdf(torch.ones(5)) == 1).all()


# Enumeration


@each_enumerable
def test_enumerated_support_is_the_whole_support(case: Case) -> None:
    law = case(4, 3)
    values = law.enumerate_support()
    torch.testing.assert_close(law.log_prob(values).exp().sum(0), torch.ones_like(law.mean))
    torch.testing.assert_close((law.log_prob(values).exp() * values).sum(0), law.mean)
    assert values.dtype == law._eta.dtype
    assert (values.diff(dim=0) > 0).all()


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)], ids=str)
@each_enumerable
def test_enumerated_support_has_the_promised_shape(case: Case, shape: tuple[int, ...]) -> None:
    law = case(*shape)
    expanded, plain = law.enumerate_support(expand=True), law.enumerate_support(expand=False)
    assert expanded.shape == (len(expanded), *shape)
    assert plain.shape == (len(expanded), *[1] * len(shape))
    assert (expanded == plain).all()
    assert law.enumerate_support().shape == expanded.shape
    large = law.expand_by((2,))
    assert large.enumerate_support().shape == (len(expanded), 2, *shape)
    assert law.mask(True).enumerate_support().shape == expanded.shape
    default = TorchDistribution.expand(law, (2, *shape))
    assert (default.enumerate_support() == large.enumerate_support()).all()


def test_binomials_of_different_counts_do_not_enumerate() -> None:
    law = distributions.Binomial(torch.zeros(3), COUNTS)
    with pytest.raises(NotImplementedError, match="from 1 to 7"):
        law.enumerate_support()
    same = distributions.Binomial(torch.zeros(3), torch.tensor([4.0, 4.0, 4.0]))
    assert same.enumerate_support().shape == (5, 3)


@each_law
def test_only_finite_laws_enumerate_their_support(case: Case) -> None:
    expected = case.name.split("-")[0] in {"Bernoulli", "Ising", "Binomial", "Ordinal"}
    assert case(3).has_enumerate_support == case.build.has_enumerate_support == expected
    if not expected:
        with pytest.raises(NotImplementedError):
            case(3).enumerate_support()
    with pytest.raises(NotImplementedError):
        case(3).to_event(1).enumerate_support()


# Expanding, reshaping, masking, copying


def assert_same_law(small: Any, large: Any) -> None:
    y = small.sample()
    torch.testing.assert_close(small.log_prob(y).expand(large.batch_shape), large.log_prob(y))
    y = large.sample()
    assert y.shape == large.batch_shape
    torch.testing.assert_close(small.log_prob(y), large.log_prob(y))
    torch.testing.assert_close(small.mean.expand(large.batch_shape), large.mean)
    torch.testing.assert_close(small.variance.expand(large.batch_shape), large.variance)


@pytest.mark.parametrize(("added", "shape_type"), in_turn([(), (2,), (2, 3)], SHAPE_TYPES))
@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@each_law
def test_expand_adds_dimensions(
    case: Case, added: tuple[int, ...], shape_type: type, expand: Callable[..., Any]
) -> None:
    small = case(3)
    large = expand(small, shape_type((*added, 3)))
    assert large.batch_shape == (*added, 3)
    assert_same_law(small, large)
    assert small.expand_by(shape_type(added)).batch_shape == (*added, 3)


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@each_law
def test_expand_stretches_dimensions_of_size_one(case: Case, expand: Callable[..., Any]) -> None:
    small = case(2, 1, 3)
    assert_same_law(small, expand(small, torch.Size((2, 5, 3))))


@each_law
def test_expanded_draws_are_independent(case: Case) -> None:
    y = case(3).expand((400, 3)).sample()
    assert (y.std(0) > 0).all()
    assert (case(3).expand((400, 3)).sample() != y).any()


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@pytest.mark.parametrize("shapes", [[(2, 1), (2, 3)], [(2, 1, 1), (2, 1, 4), (2, 5, 4)]], ids=str)
@each_law
def test_expand_again(
    case: Case, shapes: list[tuple[int, ...]], expand: Callable[..., Any]
) -> None:
    law: Any = case(3)
    for shape in shapes:
        large = expand(law, (*shape, 3))
        assert large.batch_shape == (*shape, 3)
        assert_same_law(law, large)
        law = large


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@pytest.mark.parametrize(
    ("first", "then"), [((2, 1), (4, 3)), ((2, 4), (2, 2, 1)), ((1, 2, 1), (2, 1))], ids=str
)
@each_law
def test_expand_refuses_to_shrink(
    case: Case, first: tuple[int, ...], then: tuple[int, ...], expand: Callable[..., Any]
) -> None:
    large = expand(case(3), (*first, 3))
    with pytest.raises((RuntimeError, ValueError)):
        large.expand((*then, 3))


@each_law
def test_expand_keeps_class_validation_and_memory(case: Case) -> None:
    for validate in (True, False):
        law = case.at(torch.randn(1, 3), validate_args=validate)
        large = law.expand((1000, 3))
        assert type(large) is type(law)
        assert large.family is law.family
        assert large._validate_args is validate
        assert large._eta.data_ptr() == law._eta.data_ptr()
        assert set(vars(large)) == set(vars(law))


@each_law
def test_to_event_moves_dimensions(case: Case) -> None:
    law = case(5, 4, 3)
    assert law.to_event(0) is law
    for count in range(1, 4):
        moved = law.expand_by((2,)).to_event(count)
        assert moved.batch_shape == (2, 5, 4, 3)[: 4 - count]
        assert moved.event_shape == (2, 5, 4, 3)[4 - count :]
        y = moved.sample()
        expected = law.log_prob(y).flatten(4 - count).sum(-1)
        torch.testing.assert_close(moved.log_prob(y), expected)
        assert moved.to_event(-count).batch_shape == (2, 5, 4, 3)
    with pytest.raises(ValueError, match="reinterpreted_batch_ndims"):
        law.to_event(4)


@each_with_entropy
def test_entropy_of_an_event_is_the_sum(case: Case) -> None:
    law = case(5, 4, 3)
    assert law.entropy().shape == (5, 4, 3)
    torch.testing.assert_close(law.to_event(2).entropy(), law.entropy().sum((-1, -2)))


@pytest.mark.parametrize("event_dim", [0, 1])
@each_law
def test_mask_removes_log_probs(case: Case, event_dim: int) -> None:
    law = case(4, 3).to_event(event_dim)
    mask = torch.rand(law.batch_shape) < 0.5
    masked = law.mask(mask)
    y = law.sample()
    expected = scale_and_mask(law.log_prob(y), mask=mask)
    torch.testing.assert_close(masked.log_prob(y), expected)
    assert masked.batch_shape == law.batch_shape
    assert masked.event_shape == law.event_shape
    torch.testing.assert_close(masked.mean, law.mean)
    torch.testing.assert_close(masked.variance, law.variance)
    parts, kept = masked.score_parts(y), law.score_parts(y).scale_and_mask(mask=mask)
    for part, expected_part in zip(parts, kept, strict=True):
        torch.testing.assert_close(torch.as_tensor(part), torch.as_tensor(expected_part))
    assert (law.mask(False).log_prob(y) == 0).all()


@each_law
def test_mask_broadcasts(case: Case) -> None:
    masked = case(3).to_event(1).mask(torch.tensor([[True], [False]]))
    assert masked.batch_shape == (2, 1)
    assert masked.log_prob(masked.sample()).shape == (2, 1)


@each_law
def test_pickled_and_copied_laws_are_the_same(case: Case) -> None:
    law = case(4, 3)
    buffer = io.BytesIO()
    torch.save(law, buffer, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    y = law.sample()
    for copied in (saved, pickle.loads(pickle.dumps(law)), copy.deepcopy(law), copy.copy(law)):
        assert type(copied) is type(law)
        assert copied.batch_shape == law.batch_shape
        assert (copied.log_prob(y) == law.log_prob(y)).all()


@each_law
def test_deep_to_and_detach_map_the_tensors(case: Case) -> None:
    law = case.at(torch.randn(3, requires_grad=True).exp())
    y = law.sample()
    moved = deep_to(law, torch.float64)
    assert moved._eta.dtype == torch.float64
    assert moved.log_prob(y.double()).dtype == torch.float64
    assert not detach(law).log_prob(y).requires_grad
    torch.testing.assert_close(detach(law).log_prob(y), law.log_prob(y).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_law
def test_everything_keeps_the_dtype(case: Case, dtype: torch.dtype) -> None:
    law = case(3, dtype=dtype)
    y = law.sample()
    results = [y, law(), law.log_prob(y), law.mean, law.variance, law.stddev]
    if not case.name.startswith(WITHOUT_ENTROPY):
        results.append(law.entropy())
    if law.has_rsample:
        results.append(law.cdf(y))
    if law.has_rsample and "Gamma" not in case.name:
        results.append(law.icdf(torch.rand(3, dtype=dtype)))
    assert {result.dtype for result in results} == {dtype}
    torch.testing.assert_close(
        deep_to(law, torch.float64).log_prob(y.double()).to(dtype), law.log_prob(y)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_law
def test_a_law_on_the_gpu_is_that_on_the_cpu(case: Case) -> None:
    law = case(4, 3, dtype=torch.float32)
    moved = case.given(law._eta.cuda())
    y = moved.sample()
    assert y.is_cuda
    torch.testing.assert_close(moved.log_prob(y).cpu(), law.log_prob(y.cpu()))
    torch.testing.assert_close(moved.mean.cpu(), law.mean)
    if law.has_rsample:
        assert moved.rsample().is_cuda


@pytest.mark.parametrize("value", [1, 0.5, True], ids=str)
@each_law
def test_a_number_is_a_parameter_of_empty_shape(case: Case, value: float) -> None:
    law = case.given(value)
    tensor = case.given(torch.tensor(float(value)))
    y = law.sample()
    assert law._eta.dtype == torch.get_default_dtype()
    assert law.batch_shape == tensor.batch_shape
    assert (law.log_prob(y) == tensor.log_prob(y)).all()


@each_law
def test_observations_may_be_integers(case: Case) -> None:
    law = case(4, 3, dtype=torch.float32)
    y = torch.full((4, 3), 3.0 if case.name == "Pareto" else 1.0)
    if case.name == "Beta":
        pytest.skip("no whole number is between 0 and 1")
    for integers in (y.long(), y.int(), *([y.bool()] if case.name != "Pareto" else [])):
        assert (law.log_prob(integers) == law.log_prob(y)).all()
        assert law.log_prob(integers).dtype == torch.float32


# Validation


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


# Divergences


@each_with_divergence
def test_divergence_is_the_mean_log_ratio(case: Case) -> None:
    p, q = case(2, 3), case(2, 3)
    y = p.sample((20_000,))
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


# The law of a family


class LoadedCoin(families.Bernoulli):
    """A user's refinement of a family of the package."""


@each_law
def test_each_family_has_the_distribution_of_its_name(case: Case) -> None:
    law = case(4, 3)
    same = distribution(law.family, law._eta)
    assert same.family is law.family
    y = law.sample()
    assert (same.log_prob(y) == law.log_prob(y)).all()
    assert same.batch_shape == law.batch_shape
    is_exponential = isinstance(law.family, ExponentialFamily)
    generic = ExponentialFamilyDistribution if is_exponential else FamilyDistribution
    assert type(same) is getattr(distributions, type(law.family).__name__, generic)


def test_a_refined_family_has_the_generic_distribution() -> None:
    assert type(distribution(LoadedCoin(), torch.zeros(2))) is ExponentialFamilyDistribution


def test_every_public_name_exists() -> None:
    names = {cls.__name__ for cls in CLASSES.values()}
    assert names == {cls.__name__ for cls in CLASSES}
    general = {"ExponentialFamilyDistribution", "FamilyDistribution", "distribution"}
    public = names | general | {"Categorical", "MixedDistribution", "Multinomial"}
    assert set(distributions.__all__) == public


# Transformations of torch


@each_of_number_parameters
def test_log_prob_maps_and_differentiates_under_vmap(case: Case) -> None:
    eta = case.domain(torch.randn(5, 3, dtype=torch.float64))
    y = case.given(eta).sample()

    def log_prob(eta: Tensor, y: Tensor) -> Tensor:
        return case.given(eta).log_prob(y)

    torch.testing.assert_close(torch.func.vmap(log_prob)(eta, y), log_prob(eta, y))
    each = torch.func.vmap(torch.func.grad(lambda eta, y: log_prob(eta, y).sum()))(eta, y)
    whole = torch.func.grad(lambda eta: log_prob(eta, y).sum())(eta)
    torch.testing.assert_close(each, whole)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@each_law
def test_log_prob_traces(case: Case) -> None:
    def log_prob(eta: Tensor, y: Tensor) -> Tensor:
        return case.given(eta).log_prob(y)

    law = case(4, 3)
    y = law.sample()
    with pyro.validation_enabled(False):
        traced = torch.jit.trace(log_prob, (law._eta, y))
    other = case(4, 3)._eta
    torch.testing.assert_close(traced(other, y), log_prob(other, y))


# Inside of Pyro


@each_law
def test_an_observed_plate_has_the_log_prob_of_its_rows(case: Case) -> None:
    law = case(5, 3)
    y = law.sample()
    mask: Any = torch.rand(5) < 0.5

    def model() -> None:
        with pyro.plate("rows", 5), poutine.mask(mask=mask), poutine.scale(scale=2.0):
            pyro.sample("y", distribution(law.family, law._eta).to_event(1), obs=y)

    trace = poutine.trace(model).get_trace()
    expected = 2 * (law.log_prob(y).sum(-1) * mask).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@each_law
def test_prior_predictive_draws_of_a_plate(case: Case) -> None:
    eta = case(1, 3)._eta

    def model() -> None:
        with pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 5, dim=-2):
            pyro.sample("y", case.given(eta))

    for parallel in (False, True):
        draws = Predictive(model, num_samples=7, parallel=parallel)()["y"]
        assert draws.shape == (7, 5, 3)
        assert case.given(eta).support.check(draws).all()


@each_enumerable
def test_enumerating_elbo_is_the_log_evidence(case: Case) -> None:
    law = case(5)
    data = torch.randn(5, dtype=torch.float64)

    def model() -> None:
        with pyro.plate("rows", 5):
            x = pyro.sample(
                "x", distribution(law.family, law._eta), infer={"enumerate": "parallel"}
            )
            pyro.sample("data", dist.Normal(x, 1.0), obs=data)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    values = law.enumerate_support()
    joint = law.log_prob(values) + dist.Normal(values, 1.0).log_prob(data)
    assert loss == pytest.approx(-joint.logsumexp(0).sum().item(), rel=1e-9)


@each_with_the_mean
def test_svi_finds_the_maximum_likelihood(case: Case) -> None:
    law = case(1, 3)
    y = law.sample((200,)).squeeze(1)
    pyro.clear_param_store()

    def model(y: Tensor) -> None:
        eta = pyro.param("eta", law._eta.detach().clone(), constraint=law_domain(law))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", distribution(law.family, eta).to_event(1), obs=y)

    svi = SVI(model, lambda y: None, PyroOptim(torch.optim.Adam, {"lr": 0.05}), Trace_ELBO())
    for _ in range(200):
        svi.step(y)
    fitted = distribution(law.family, pyro.param("eta").detach())
    spread = (law.variance / len(y)).sqrt().squeeze(0)
    assert ((fitted.mean.squeeze(0) - y.mean(0)).abs() < 0.2 * spread + 1e-3).all()


def law_domain(law: ExponentialFamilyDistribution) -> constraints.Constraint:
    return law.family.predictor_domain


@each_reparameterised
def test_reparameterised_laws_serve_as_guides(case: Case) -> None:
    target = case.at(torch.tensor([-1.0, 0.5, 1.5]))
    pyro.clear_param_store()

    def model() -> None:
        with pyro.plate("columns", 3):
            pyro.sample("x", distribution(target.family, target._eta))

    def guide() -> None:
        eta = pyro.param("eta", target._eta + torch.tensor([0.5, -0.5, 0.5]))
        with pyro.plate("columns", 3):
            pyro.sample("x", distribution(target.family, eta))

    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True)
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.05}), elbo)
    for _ in range(120):
        svi.step()
    fitted = distribution(target.family, pyro.param("eta").detach())
    assert (kl_divergence(fitted, target) < 0.01).all()
