"""The laws that every test of distributions runs over, with their references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import distributions, families, links
from pyro_expfam.distributions import (
    ExponentialFamilyDistribution,
    FamilyDistribution,
)
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


def some(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Each law, every third of them in the quick tests, for what Pyro does with any law."""
    numbered = enumerate(cases)
    return each(c if k % 3 == 0 else pytest.param(c, marks=pytest.mark.slow) for k, c in numbered)


each_law = each(CASES)
each_discrete = each(c for c in CASES if c(1).support.is_discrete)
each_continuous = each(c for c in CASES if not c(1).support.is_discrete)
each_reparameterised = each(c for c in CASES if c(1).has_rsample)
some_reparameterised = some(c for c in CASES if c(1).has_rsample)
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
some_with_the_mean = some(
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
