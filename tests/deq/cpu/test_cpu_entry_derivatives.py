"""Losses of the kernels of the evidence and their derivatives are numbers of 50 digits."""

import math

import mpmath as mp
import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.evidence_laws import function_at

CUTS = (-math.inf, -1.5, -0.5, 0.5, 1.5, math.inf)
FAR = (-45.0, -39.0, -20.0, -7.0, -3.1, -2.9, -1.1, -0.9, -0.3, 1e-3, 0.6, 2.0, 3.1, 9.0, 30.0)


def of_ordinal(x, y):
    below, above = CUTS[y], CUTS[y + 1]
    upper = mp.log1p(mp.exp(x - above)) if above < math.inf else mp.mpf(0)
    return upper + (mp.log1p(mp.exp(below - x)) if below > -math.inf else mp.mpf(0))


def of_continuous_bernoulli(x, y):
    return mp.log(mp.expm1(x) / x) - mp.mpf(y) * x


def of_probit(x, y):
    def tail(x):
        return -mp.log(mp.erfc(-x / mp.sqrt(2)) / 2)

    return y * tail(x) + (3 - y) * tail(-x)


def of_log_log(x, y):
    return (5 - y) * mp.exp(x) - y * mp.log(-mp.expm1(-mp.exp(x)))


def of_beta(x, y):
    first, second, y = 7 / (1 + mp.exp(-x)), 7 / (1 + mp.exp(x)), mp.mpf(y)
    of_shapes = mp.loggamma(first) + mp.loggamma(second) - mp.loggamma(7)
    return of_shapes - (first - 1) * mp.log(y) - (second - 1) * mp.log(1 - y)


def of_negative_binomial(x, y):
    size = mp.mpf(2.5)
    return (y + size) * mp.log1p(mp.exp(x) / size) - y * x


def of_gamma(x, y):
    return mp.mpf(2.5) * (x + mp.mpf(y) * mp.exp(-x))


def of_ising(x, y):
    return mp.log(mp.cosh(x)) - y * x


def of_tweedie(x, y):
    power = mp.mpf(1.25)
    falling = mp.mpf(y) * mp.exp((1 - power) * x) / (power - 1)
    return (falling + mp.exp((2 - power) * x) / (2 - power)) / 2


def of_zero_truncated_poisson(x, y):
    return mp.exp(x) + mp.log(-mp.expm1(-mp.exp(x))) - y * x


def inflated(loss_of_zero, loss, y):
    """The loss of a count where a zero is there for sure with the probability 0.001."""
    share = mp.mpf(0.001)
    if y == 0:
        return -mp.log(share + (1 - share) * mp.exp(-loss_of_zero))
    return loss - mp.log1p(-share)


def of_zero_inflated_poisson(x, y):
    return inflated(mp.exp(x), mp.exp(x) - y * x, y)


def of_zero_inflated_negative_binomial(x, y):
    return inflated(of_negative_binomial(x, 0), of_negative_binomial(x, y), y)


def log_softplus(x):
    return mp.log(mp.log1p(mp.exp(x)))


def of_poisson_softplus(x, y):
    return mp.log1p(mp.exp(x)) - y * log_softplus(x)


def of_negative_binomial_softplus(x, y):
    return of_negative_binomial(log_softplus(x), y)


def of_gamma_softplus(x, y):
    return of_gamma(log_softplus(x), y)


def of_tweedie_softplus(x, y):
    return of_tweedie(log_softplus(x), y)


def of_gaussian_softplus(x, y):
    mean = mp.log1p(mp.exp(x))
    return (mean / 2 - mp.mpf(y)) * mean / 4


def of_gaussian_log(x, y):
    return (mp.exp(x) / 2 - mp.mpf(y)) * mp.exp(x) / 4


def of_poisson(x, y):
    return mp.exp(x) - y * x


def of_binomial(x, y):
    return 5 * mp.log1p(mp.exp(x)) - y * x


def of_gaussian(x, y):
    return x * x / 2 - mp.mpf(y) * x


ODDS = (math.log(999.0), math.log1p(-0.001))
CASES = {
    "exponential": ((1.0,), (0, 7), of_poisson, (-20.0, -1.0, 0.1, 2.0, 6.0)),
    "logistic": ((5.0,), (0, 5), of_binomial, FAR),
    "identity": ((1.0,), (-3.0, 7.0), of_gaussian, FAR),
    "ordinal": (CUTS, (0, 2, 4), of_ordinal, FAR),
    "continuous_bernoulli": ((1.0,), (0.3,), of_continuous_bernoulli, FAR),
    "probit": ((3.0,), (2, 0), of_probit, FAR),
    "complementary_log_log": ((5.0,), (5, 2), of_log_log, (-40.0, -9.0, -1.0, 0.1, 2.0, 6.0)),
    "beta": ((7.0, math.lgamma(7.0)), (0.1, 0.95), of_beta, FAR),
    "negative_binomial": ((2.5, math.log(2.5)), (0, 3, 1e6), of_negative_binomial, FAR),
    "gamma": ((2.5,), (1e-3, 40.0), of_gamma, (-9.0, -1.0, 0.3, 20.0)),
    "ising": ((1.0,), (-1, 1), of_ising, FAR),
    "tweedie": ((2.0, 1.25), (0.0, 3.0), of_tweedie, (-9.0, -1.0, 0.3, 7.0)),
    "zero_truncated_poisson": (
        (1.0,),
        (1, 7),
        of_zero_truncated_poisson,
        (-20.0, -9.0, -1.0, 0.1, 2.0, 6.0, 12.0),
    ),
    "zero_inflated_poisson": (
        (0.001, *ODDS),
        (0, 1, 500),
        of_zero_inflated_poisson,
        (-20.0, -1.0, 0.1, 1.5, 1.9, 2.1, 3.5, 6.0, 12.0),
    ),
    "zero_inflated_negative_binomial": (
        (0.001, 2.5, math.log(2.5), *ODDS),
        (0, 1, 1e6),
        of_zero_inflated_negative_binomial,
        FAR,
    ),
    "poisson_softplus": ((1.0,), (0, 3, 1e6), of_poisson_softplus, (*FAR, -2.31, -2.29, 800.0)),
    "negative_binomial_softplus": (
        (2.5, math.log(2.5)),
        (0, 3, 1e6),
        of_negative_binomial_softplus,
        (*FAR, -2.31, -2.29, 800.0),
    ),
    "gamma_softplus": ((2.5,), (1e-3, 40.0), of_gamma_softplus, (-9.0, -1.0, 0.3, 20.0)),
    "tweedie_softplus": ((2.0, 1.25), (0.0, 3.0), of_tweedie_softplus, (-9.0, -1.0, 0.3, 7.0)),
    "gaussian_softplus": ((2.0,), (-3.0, 50.0), of_gaussian_softplus, (*FAR, 800.0)),
    "gaussian_log": ((2.0,), (-3.0, 50.0), of_gaussian_log, (-20.0, -1.0, 0.3, 3.0)),
}
WITHOUT_BOUND = ("gamma", "gamma_softplus")
"""Laws whose losses are infinite in float64 where the mean of a positive number is zero."""


@njit
def compute(function, eta, y, parameters, found):
    call(function, eta, y, parameters, found, len(parameters))


def derivatives(name, eta, y):
    found = np.zeros((6, LANES))
    arrays = (np.full(LANES, eta), np.full(LANES, float(y)), np.array(CASES[name][0]))
    compute(function_at(name), *arrays, found)
    return found[:, 0]


@pytest.mark.parametrize("name", list(CASES))
def test_derivatives(name):
    _, observations, loss, predictors = CASES[name]
    with mp.workdps(50):
        for y in observations:
            for eta in predictors:
                series = mp.taylor(lambda x, y=y: loss(x, y), mp.mpf(eta), 5)
                expected = [float(x * mp.factorial(k)) for k, x in enumerate(series)]
                found = derivatives(name, eta, y)
                # The recurrences of the probit cancel before the series in the tail begins.
                np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_BOUND])
@pytest.mark.parametrize("eta", [-1e8, -800.0, 0.0])
def test_derivatives_far_out_are_numbers(name, eta):
    assert np.isfinite(derivatives(name, eta, CASES[name][1][0])).all()
