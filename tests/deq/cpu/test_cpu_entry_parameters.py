"""Gradients in parameters of counts with additional zeros are slopes of 30 digits."""

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


def of_poisson(x, y, share):
    rate = mp.exp(x)
    return share, rate, rate - y * x + mp.loggamma(y + 1)


def of_negative_binomial(x, y, share, size):
    zero = size * mp.log1p(mp.exp(x) / size)
    of_count = mp.loggamma(y + size) - mp.loggamma(size) - mp.loggamma(y + 1)
    # The odds of the mean over the size.
    return share, zero, (y + size) * mp.log1p(mp.exp(x) / size) - y * (x - mp.log(size)) - of_count


def loss(law, x, y, parameters):
    share, zero, count = law(x, y, *parameters)
    if y == 0:
        return -mp.log(share + (1 - share) * mp.exp(-zero))
    return count - mp.log1p(-share)


LAWS = {
    "zero_probability": (of_poisson, ((0.3,), (1e-6,), (0.999,))),
    "zero_probability_and_size": (of_negative_binomial, ((0.3, 2.5), (1e-4, 300.0), (0.9, 0.1))),
}


def known(parameters):
    """What the kernels know of a feature."""
    share, *size = parameters
    odds = (np.log1p(-share) - np.log(share), np.log1p(-share))
    return np.array([share, *size, *np.log(size), *odds])


@njit
def compute(function, inputs, y, parameters, total):
    call(function, inputs, y, parameters, total, len(parameters))


def found(name, eta, y, parameters):
    """The slopes of the log density, the score and derivatives, ``(5, parameters)``."""
    numbers, slopes = known(parameters), []
    for place in INPUTS:
        inputs, total = np.zeros((6, LANES)), np.zeros(len(numbers))
        inputs[0], inputs[place, 0] = eta, 1.0
        compute(parameters_at(name), inputs, np.full(LANES, float(y)), numbers, total)
        slopes.append(total[: len(parameters)])
    return np.array(slopes)


def expected(law, eta, y, parameters):
    def derivative(order, *values):
        sign = -1 if order < 2 else 1
        return sign * mp.diff(lambda x: loss(law, x, y, values), mp.mpf(eta), order)

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
    law, cases = LAWS[name]
    with mp.workdps(30):
        for parameters in cases:
            for eta, y in ((-8.0, 0), (2.5, 0), (6.0, 0), (0.5, 3)):
                exact = expected(law, eta, y, parameters)
                np.testing.assert_allclose(
                    found(name, eta, y, parameters), exact, rtol=1e-9, atol=1e-9
                )


@pytest.mark.parametrize("name", LAWS)
def test_slopes_far_out_are_numbers(name):
    for eta in (-1e8, -800.0, 41.0, 700.0):
        assert np.isfinite(found(name, eta, 0, LAWS[name][1][0])).all()
