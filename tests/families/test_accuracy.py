"""Every function of every family against mpmath, in both precisions, over [-80, 80]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Family,
    Gaussian,
    Ising,
    Poisson,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
DTYPES = list(TOLERANCE)
DIGITS = 220  # A fourth derivative near 0 loses 150 of them to cancellation.
NEAR_ZERO = [1e-30, 1e-12, 1e-8, 1e-4, 1e-3, 0.03, 0.3]
BEND = [0.97, 0.999999, 1.0, 1.000001, 1.03, 1.97, 1.999999, 2.0, 2.000001, 2.03, 3.5, 3.7, 4.0]
LARGE = [10.0, 17.5, 37.0, 45.0, 63.9, 64.1, 79.7, 80.0]


@dataclass(frozen=True)
class Reference:
    """The definitions of a family in arbitrary precision."""

    family: Family
    log_partition: Callable[[Any], Any]
    cumulants: tuple[Callable[[Any], Any], ...]
    log_base_measure: Callable[[Any], Any]
    expected_log_base_measure: Callable[[Any], Any]

    @property
    def mean(self) -> Callable[[Any], Any]:
        return self.cumulants[0]


def logistic_cumulants(x: Any) -> tuple[Any, Any, Any, Any]:
    p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    return p, p * q, p * q * (q - p), p * q * (1 - 6 * p * q)


def continuous_cumulants(x: Any) -> tuple[Any, Any, Any, Any]:
    if x == 0:
        return mp.mpf(1) / 2, mp.mpf(1) / 12, mp.mpf(0), -mp.mpf(1) / 120
    t = x / 2
    sinh, coth = mp.sinh(t), mp.coth(t)
    second = 1 / (4 * sinh**2)
    return (
        mp.mpf(1) / 2 + coth / 2 - 1 / x,
        1 / x**2 - second,
        -2 / x**3 + second * coth,
        6 / x**4 - second * (coth**2 + 1 / (2 * sinh**2)),
    )


def continuous_log_partition(x: Any) -> Any:
    return mp.log(mp.expm1(x) / x) if x else mp.mpf(0)


def expected_log_factorial(eta: Any) -> Any:
    """Minus the expectation of log y! for a Poisson variable."""
    rate = mp.exp(eta)
    if eta > 10:
        # Evans and Boersma (1988); the next term is below 1e-18.
        entropy = (mp.log(2 * mp.pi) + 1 + eta) / 2
        entropy -= 1 / (12 * rate) + 1 / (24 * rate**2) + mp.mpf(19) / 360 / rate**3
        return rate * (1 - eta) - entropy
    with mp.workdps(40):
        mass = mp.exp(-rate)
        total = log_factorial = mp.mpf(0)
        for k in range(1, int(rate + 20 * mp.sqrt(rate) + 60)):
            mass, log_factorial = mass * rate / k, log_factorial + mp.log(k)
            total += mass * log_factorial
        return -total


def expected_log_coefficient(n: int) -> Callable[[Any], Any]:
    def expectation(eta: Any) -> Any:
        with mp.workdps(60):
            terms = (
                mp.binomial(n, k) * mp.exp(k * eta) * mp.log(mp.binomial(n, k))
                for k in range(n + 1)
            )
            return mp.fsum(terms) / (1 + mp.exp(eta)) ** n

    return expectation


def scaled(factor: Any, functions: Callable[[Any], tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(lambda x, i=i: factor * functions(x)[i] for i in range(4))


REFERENCES = {
    "gaussian": Reference(
        Gaussian(scale=2.5),
        lambda x: x**2 / 2,
        (lambda x: x, lambda x: mp.mpf(1), lambda x: mp.mpf(0), lambda x: mp.mpf(0)),
        lambda y: -((y / mp.mpf(2.5)) ** 2) / 2 - mp.log(2.5 * mp.sqrt(2 * mp.pi)),
        lambda x: -(1 + x**2) / 2 - mp.log(2.5 * mp.sqrt(2 * mp.pi)),
    ),
    "bernoulli": Reference(
        Bernoulli(),
        lambda x: mp.log1p(mp.exp(x)),
        scaled(1, logistic_cumulants),
        lambda y: mp.mpf(0),
        lambda x: mp.mpf(0),
    ),
    "ising": Reference(
        Ising(),
        lambda x: mp.log(mp.cosh(x)),
        (
            mp.tanh,
            lambda x: mp.sech(x) ** 2,
            lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2,
            lambda x: (4 - 6 * mp.sech(x) ** 2) * mp.sech(x) ** 2,
        ),
        lambda y: -mp.log(2),
        lambda x: -mp.log(2),
    ),
    "continuous_bernoulli": Reference(
        ContinuousBernoulli(),
        continuous_log_partition,
        scaled(1, continuous_cumulants),
        lambda y: mp.mpf(0),
        lambda x: mp.mpf(0),
    ),
    "poisson": Reference(
        Poisson(),
        mp.exp,
        (mp.exp, mp.exp, mp.exp, mp.exp),
        lambda y: -mp.loggamma(y + 1),
        expected_log_factorial,
    ),
    "binomial": Reference(
        Binomial(total_count=23),
        lambda x: 23 * mp.log1p(mp.exp(x)),
        scaled(23, logistic_cumulants),
        lambda y: mp.log(mp.binomial(23, y)),
        expected_log_coefficient(23),
    ),
}
CUMULANTS = ["mean", "variance", "third_cumulant", "fourth_cumulant"]


@pytest.fixture(params=list(REFERENCES))
def reference(request: pytest.FixtureRequest) -> Reference:
    return REFERENCES[request.param]


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def precision() -> Any:
    with mp.workdps(DIGITS):
        yield


def natural_params(dtype: torch.dtype) -> Tensor:
    positive = torch.tensor(NEAR_ZERO + BEND + LARGE, dtype=torch.float64)
    rng = np.random.default_rng(0)
    spread = torch.from_numpy(rng.uniform(-80, 80, 24))
    everything = torch.cat([-positive, torch.zeros(1, dtype=torch.float64), positive, spread])
    return everything.to(dtype)


def exact(function: Callable[..., Any], *arguments: Tensor) -> list[Any]:
    return [
        function(*(mp.mpf(x) for x in row))
        for row in zip(*map(Tensor.tolist, arguments), strict=True)
    ]


def worst_error(values: Tensor, expected: list[Any], floor: float = 1.0) -> float:
    """The largest error, relative to what is expected or to ``floor``, whichever is larger."""
    pairs = zip(values.tolist(), expected, strict=True)
    errors = [
        mp.mpf(0) if value == wanted else abs(mp.mpf(value) - wanted) / max(abs(wanted), floor)
        for value, wanted in pairs
    ]
    return float(max(mp.inf if mp.isnan(error) else error for error in errors))


def functions(reference: Reference) -> dict[str, Callable[[Any], Any]]:
    named = dict(zip(CUMULANTS, reference.cumulants, strict=True))
    return named | {"log_partition": reference.log_partition}


def divergence(reference: Reference) -> Callable[[Any, Any], Any]:
    return lambda x, other: (
        reference.log_partition(other)
        - reference.log_partition(x)
        - (other - x) * reference.mean(x)
    )


def observations(family: Family, eta: Tensor) -> Tensor:
    """Draws, and the ends and inside of the support, one row each."""
    torch.manual_seed(1)
    fixed = {
        Bernoulli: [0, 1],
        Ising: [-1, 1],
        ContinuousBernoulli: [0, 1e-20, 1e-3, 0.5, 0.99, 1],
        Poisson: [0, 1, 2, 15, 16, 17, 100, 1e6],
        Binomial: [0, 1, 5, 15, 16, 22, 23],
        Gaussian: [0],
    }[type(family)]
    rows = [torch.full_like(eta, y) for y in fixed]
    return torch.stack([*family.sample(eta, (2,)), *rows])


@pytest.mark.parametrize("name", ["log_partition", *CUMULANTS])
def test_log_partition_and_cumulants(reference, dtype, name):
    eta = natural_params(dtype)
    values = getattr(reference.family, name)(eta)
    assert values.dtype == dtype
    assert worst_error(values, exact(functions(reference)[name], eta)) < TOLERANCE[dtype]


@pytest.mark.parametrize("order", range(4))
def test_autograd_through_each_function_gives_the_next(reference, dtype, order):
    eta = natural_params(dtype).requires_grad_()
    value = getattr(reference.family, ["log_partition", *CUMULANTS][order])(eta)
    (gradient,) = torch.autograd.grad(value.sum(), eta)
    expected = exact(reference.cumulants[order], eta.detach())
    assert worst_error(gradient, expected) < TOLERANCE[dtype]


def test_mean_and_variance_together(reference, dtype):
    eta = natural_params(dtype)
    mean, variance = reference.family.mean_and_variance(eta)
    assert worst_error(mean, exact(reference.mean, eta)) < TOLERANCE[dtype]
    assert worst_error(variance, exact(reference.cumulants[1], eta)) < TOLERANCE[dtype]


def test_mean_and_variance_in_place(reference, dtype):
    eta = natural_params(dtype)
    expected = reference.family.mean_and_variance(eta)
    got = reference.family.mean_and_variance_in_place(eta.clone(), torch.full_like(eta, torch.nan))
    torch.testing.assert_close(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=0.0)


def test_first_cumulants_in_place(reference, dtype):
    eta = natural_params(dtype)
    family = reference.family
    expected = (family.log_partition(eta), *family.mean_and_variance(eta))
    got = family.first_cumulants_in_place(eta.clone(), torch.full_like(eta, torch.nan))
    torch.testing.assert_close(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("name", ["mean", "variance"])
@pytest.mark.parametrize("key", ["bernoulli", "continuous_bernoulli", "poisson", "binomial"])
def test_tails_have_relative_accuracy(key, dtype, name):
    reference = REFERENCES[key]
    eta = natural_params(dtype)
    values = getattr(reference.family, name)(eta)
    expected = exact(functions(reference)[name], eta)
    assert worst_error(values, expected, floor=1e-36) < TOLERANCE[dtype]


def test_log_cosh_has_relative_accuracy(dtype):
    eta = natural_params(dtype)
    values, expected = Ising().log_partition(eta), exact(REFERENCES["ising"].log_partition, eta)
    assert worst_error(values, expected, floor=1e-36) < TOLERANCE[dtype]


def test_entropy_and_expected_log_base_measure(reference, dtype):
    positive = torch.tensor([1e-3, 0.5, 2.0, 3.6, 3.7, 5.0, 12.0, 37.0, 79.7], dtype=dtype)
    eta = torch.cat([-positive, torch.zeros(1, dtype=dtype), positive])
    expected = exact(reference.expected_log_base_measure, eta)
    entropy = [
        reference.log_partition(mp.mpf(x)) - mp.mpf(x) * reference.mean(mp.mpf(x)) - base
        for x, base in zip(eta.tolist(), expected, strict=True)
    ]
    values = reference.family.expected_log_base_measure(eta)
    assert worst_error(values, expected) < TOLERANCE[dtype]
    assert worst_error(reference.family.entropy(eta), entropy) < TOLERANCE[dtype]


def test_kl_divergence(reference, dtype):
    eta = natural_params(dtype)[::2]
    shuffled = eta[torch.randperm(len(eta), generator=torch.Generator().manual_seed(2))]
    other = torch.cat([shuffled, -eta, 0.999 * eta, eta + 0.5, eta - 1.5]).clamp(-80, 80)
    eta = eta.repeat(5)
    values = reference.family.kl_divergence(eta, other)
    expected = exact(divergence(reference), eta, other)
    assert worst_error(values, expected) < TOLERANCE[dtype]
    assert bool((values >= 0).all())


def test_log_prob_and_log_base_measure(reference, dtype):
    family, eta = reference.family, natural_params(dtype)[::2]
    # The rate itself has too few digits for larger counts near the mode.
    eta = eta[eta < 27] if isinstance(family, Poisson) else eta
    y = observations(family, eta)
    unit = mp.mpf(2.5) if isinstance(family, Gaussian) else 1
    log_base = exact(reference.log_base_measure, y.flatten())
    pairs = zip(log_base, y.flatten().tolist(), eta.expand_as(y).flatten().tolist(), strict=True)
    expected = [
        base + mp.mpf(value) / unit * mp.mpf(x) - reference.log_partition(mp.mpf(x))
        for base, value, x in pairs
    ]
    assert worst_error(family.log_base_measure(y).flatten(), log_base) < TOLERANCE[dtype]
    assert worst_error(family.log_prob(y, eta).flatten(), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("key", "inverse"),
    [
        ("bernoulli", lambda m: mp.log(m / (1 - m))),
        ("ising", mp.atanh),
        ("poisson", mp.log),
        ("binomial", lambda m: mp.log(m / (23 - m))),
    ],
)
def test_natural_param_of_a_mean(key, inverse, dtype):
    family = REFERENCES[key].family
    mean = family.mean(natural_params(dtype))
    inside = family.natural_param(mean).isfinite()
    expected = exact(inverse, mean[inside])
    assert worst_error(family.natural_param(mean[inside]), expected, 1e-9) < TOLERANCE[dtype]


def test_natural_param_of_a_continuous_bernoulli(dtype):
    family = ContinuousBernoulli()
    extremes = torch.tensor([1e-30, 1e-3, 0.0156, 1 / 64, 0.499999, 0.5000001, 0.999])
    mean = torch.cat([family.mean(natural_params(dtype)), extremes.to(dtype)])
    mean = mean[mean != 0.5]
    start = family.natural_param(mean.double()).tolist()
    with mp.workdps(50):
        expected = [
            mp.findroot(lambda x, m=m: continuous_cumulants(x)[0] - m, x, verify=False)
            for m, x in zip(map(mp.mpf, mean.tolist()), start, strict=True)
        ]
    assert worst_error(family.natural_param(mean), expected, floor=1e-9) < TOLERANCE[dtype]


def test_self_concordance_is_the_supremum_of_the_ratio(reference: Reference) -> None:
    """The largest ratio of the third to the second cumulant, by mpmath on [-60, 60]."""
    _, second, third, _ = reference.cumulants

    def ratio(x: Any) -> Any:
        return abs(third(x)) / second(x)

    with mp.workdps(50):
        grid = [mp.mpf(k) / 40 for k in range(-2400, 2401)]
        supremum = max(map(ratio, grid))
    constant = reference.family.self_concordance
    assert supremum <= constant <= float(supremum) * (1 + 1e-4)
