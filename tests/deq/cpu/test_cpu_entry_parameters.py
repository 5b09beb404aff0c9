"""Gradients in parameters of laws are slopes of 30 digits."""

import mpmath as mp
import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.entry_parameters import parameters_at
from pyro_expfam.deq.cpu.evaluation import LANES

INPUTS = (1, 3, 2, 4, 5)
"""What multiplies the log density, the score and three further derivatives of the loss."""


def negative_binomial(x, y, size):
    of_count = mp.loggamma(y + size) - mp.loggamma(size) - mp.loggamma(y + 1)
    # The odds of the mean over the size.
    return (y + size) * mp.log1p(mp.exp(x) / size) - y * (x - mp.log(size)) - of_count


def inflated(loss, loss_of_zero, y, share):
    if y == 0:
        return -mp.log(share + (1 - share) * mp.exp(-loss_of_zero))
    return loss - mp.log1p(-share)


def of_zero_inflated_poisson(x, y, share):
    rate = mp.exp(x)
    return inflated(rate - y * x + mp.loggamma(y + 1), rate, y, share)


def of_zero_inflated_negative_binomial(x, y, share, size):
    zero = size * mp.log1p(mp.exp(x) / size)
    return inflated(negative_binomial(x, y, size), zero, y, share)


def log_softplus(x):
    return mp.log(mp.log1p(mp.exp(x)))


def of_negative_binomial_under_softplus(x, y, size):
    return negative_binomial(log_softplus(x), y, size)


def of_gamma_under_softplus(x, y, shape):
    x = log_softplus(x)
    of_density = shape * mp.log(shape) - mp.loggamma(shape) + (shape - 1) * mp.log(y)
    return shape * (x + y * mp.exp(-x)) - of_density


def with_odds(share, *size):
    """What the kernels know of a feature with additional zeros."""
    odds = (np.log1p(-share) - np.log(share), np.log1p(-share))
    return np.array([share, *size, *np.log(size), *odds])


def with_log(size):
    return np.array([size, np.log(size)])


def alone(shape):
    return np.array([shape])


ZEROS = ((-8.0, 0), (2.5, 0), (6.0, 0), (0.5, 3))
POSITIVE = ((-2.0, 0.3), (0.5, 3.0), (6.0, 4.0))
LAWS = {
    "zero_probability": (
        of_zero_inflated_poisson,
        with_odds,
        ((0.3,), (1e-6,), (0.999,)),
        ZEROS,
    ),
    "zero_probability_and_size": (
        of_zero_inflated_negative_binomial,
        with_odds,
        ((0.3, 2.5), (1e-4, 300.0), (0.9, 0.1)),
        ZEROS,
    ),
    "size_of_softplus": (
        of_negative_binomial_under_softplus,
        with_log,
        ((2.5,), (300.0,)),
        ZEROS,
    ),
    "shape_of_softplus": (of_gamma_under_softplus, alone, ((0.7,), (20.0,)), POSITIVE),
}


@njit
def compute(function, inputs, y, parameters, total):
    call(function, inputs, y, parameters, total, len(parameters))


def found(name, eta, y, parameters):
    """The slopes of the log density, the score and derivatives, ``(5, parameters)``."""
    numbers, slopes = LAWS[name][1](*parameters), []
    for place in INPUTS:
        inputs, total = np.zeros((6, LANES)), np.zeros(len(numbers))
        inputs[0], inputs[place, 0] = eta, 1.0
        compute(parameters_at(name), inputs, np.full(LANES, float(y)), numbers, total)
        slopes.append(total[: len(parameters)])
    return np.array(slopes)


def expected(loss, eta, y, parameters):
    def derivative(order, *values):
        sign = -1 if order < 2 else 1
        return sign * mp.diff(lambda x: loss(x, y, *values), mp.mpf(eta), order)

    exact = [mp.mpf(x) for x in parameters]
    rows = []
    for order in range(5):
        along = []
        for place in range(len(exact)):
            own = [int(place == k) for k in range(len(exact))]
            along.append(
                float(mp.diff(lambda *v, k=order: derivative(k, *v), tuple(exact), tuple(own)))
            )
        rows.append(along)
    return np.array(rows)


@pytest.mark.parametrize("name", LAWS)
def test_slopes_in_parameters(name):
    loss, _, cases, places = LAWS[name]
    with mp.workdps(30):
        for parameters in cases:
            for eta, y in places:
                exact = expected(loss, eta, y, parameters)
                np.testing.assert_allclose(
                    found(name, eta, y, parameters), exact, rtol=1e-9, atol=1e-9
                )


@pytest.mark.parametrize("name", [name for name in LAWS if name != "shape_of_softplus"])
def test_slopes_far_out_are_numbers(name):
    for eta in (-1e8, -800.0, 41.0, 700.0):
        assert np.isfinite(found(name, eta, 0, LAWS[name][2][0])).all()
