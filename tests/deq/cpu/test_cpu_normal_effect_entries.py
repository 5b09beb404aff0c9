"""Losses of counts with a normal effect are integrals of 40 digits, and so are their slopes."""

import mpmath as mp
import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.entry_parameters import parameters_at
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.evidence_laws import law_at

ENTRIES = (
    (-20.0, 0, 0.5),
    (-3.0, 0, 1.5),
    (0.3, 0, 0.05),
    (2.0, 0, 3.0),
    (-4.0, 3, 0.5),
    (1.0, 2, 1.0),
    (1.0, 6, 0.1),
    (5.0, 140, 0.3),
    (9.0, 3, 2.0),
    (12.0, 100_000, 0.7),
)
"""Linear predictors, counts and scales."""


def exact(eta, y, scale):
    """The loss and five derivatives: cumulants of the log rate given the count."""
    eta, square = mp.mpf(eta), mp.mpf(scale) ** 2
    mode = mp.findroot(lambda x: (x - eta) / square + mp.exp(x) - y, mp.log(y + mp.mpf("0.5")))
    step = min(mp.mpf("0.08"), mp.mpf("0.25") / mp.sqrt(1 / square + mp.exp(mode)))

    def log_density(x):
        return y * x - mp.exp(x) - (x - eta) ** 2 / (2 * square)

    moments, top = [mp.mpf(0)] * 6, log_density(mode)
    for side in (1, -1):
        k = 0 if side > 0 else 1
        while (fall := log_density(mode + side * k * step) - top) > -80:
            for j in range(6):
                moments[j] += mp.exp(fall) * (side * k * step) ** j
            k += 1
    loss = -(top + mp.log(step * moments[0]) - mp.log(2 * mp.pi * square) / 2)
    first, *others = (x / moments[0] for x in moments[1:])
    about = [
        sum(
            mp.binomial(n, j) * (-first) ** (n - j) * ([1, first, *others][j]) for j in range(n + 1)
        )
        for n in range(2, 6)
    ]
    second, third, fourth, fifth = about
    return [
        loss,
        -(mode + first - eta) / square,
        1 / square - second / square**2,
        -third / square**3,
        -(fourth - 3 * second**2) / square**4,
        -(fifth - 10 * third * second) / square**5,
    ]


@njit
def compute(function, eta, y, parameters, found):
    call(function, eta, y, parameters, found, len(parameters))


def derivatives(eta, y, scale):
    found = np.zeros((6, LANES))
    arrays = (np.full(LANES, eta), np.full(LANES, float(y)), np.array([scale]))
    compute(law_at("normal_effect"), *arrays, found)
    return found[:, -1]


@pytest.mark.parametrize(("eta", "y", "scale"), ENTRIES)
def test_derivatives(eta, y, scale):
    with mp.workdps(40):
        expected = [float(x) for x in exact(eta, y, scale)]
    found = derivatives(eta, y, scale)
    # Derivatives in units of the smaller of the scale and the deviation of a count.
    size = abs(expected[2]) + 1e-3
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-11, atol=1e-11 * size)


def test_lanes_have_the_nodes_that_each_needs():
    """Counts of all sizes side by side are what each is alone."""
    eta, y = np.linspace(-15, 12, LANES), np.floor(np.exp(np.linspace(-3, 13, LANES)))
    found = np.zeros((6, LANES))
    compute(law_at("normal_effect"), eta, y, np.array([0.8]), found)
    alone = [derivatives(a, b, 0.8) for a, b in zip(eta[::9], y[::9], strict=True)]
    np.testing.assert_allclose(found[:, ::9].T, alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("eta", [-1e8, -800.0, 700.0, 1e8])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_derivatives_far_out_are_numbers(eta, scale):
    for y in (0, 7):
        assert np.isfinite(derivatives(eta, y, scale)).all()


@pytest.mark.parametrize(("eta", "y", "scale"), ENTRIES[1:8])
def test_slopes_in_the_scale(eta, y, scale):
    with mp.workdps(40):
        step = mp.mpf("1e-12")
        ahead, behind = (exact(eta, y, scale + sign * step) for sign in (1, -1))
        slopes = [float((a - b) / (2 * step)) for a, b in zip(ahead, behind, strict=True)]
    # What multiplies the log density, the score, and three further derivatives of the loss.
    for place, sign, slope in zip((1, 3, 2, 4, 5), (-1, -1, 1, 1, 1), slopes, strict=False):
        inputs, total = np.zeros((6, LANES)), np.zeros(1)
        inputs[0], inputs[place, 0] = eta, 1.0
        compute(parameters_at("effect"), inputs, np.full(LANES, float(y)), np.array([scale]), total)
        np.testing.assert_allclose(total[0], sign * slope, rtol=1e-8, atol=1e-8)
