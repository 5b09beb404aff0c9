"""Slopes and curvatures under a link in float32 equal mpmath, and their changes have a bound."""

import mpmath
import numpy as np
import pytest
from test_cpu_outcomes import complementary_log_log, probit

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.compilation import OF_KERNELS
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.observed_moments import moments
from pyro_expfam.deq.cpu.single_outcomes import CHANGES, SINGLE_LINKS

NEAR = np.concatenate([np.linspace(-45, 45, 361), np.logspace(-6, -1, 9), -np.logspace(-6, -1, 9)])
FAR = np.logspace(1.7, 5, 15)
EXACT = {"probit": probit, "complementary_log_log": complementary_log_log}
LARGEST_EXPONENT = 85
"""Beyond this predictor, on either side, a rate is no number of float32."""


@numba.njit(**OF_KERNELS)
def _moments(law, total, eta, y, slope, curvature):
    for i in range(len(eta)):
        moments(law, total, eta[i], y[i], slope[i], curvature[i])


def found_moments(name, counts, total, eta, y):
    lanes = -(-len(eta) // LANES)
    padded = np.zeros((2, lanes * LANES), np.float32)
    padded[0, : len(eta)], padded[1, : len(eta)] = eta, y
    x, observed = padded.reshape(2, lanes, LANES)
    slope, curvature = np.full_like(x, np.nan), np.full_like(x, np.nan)
    _moments(SINGLE_LINKS[name](counts), np.float32(total), x, observed, slope, curvature)
    return slope.ravel()[: len(eta)], curvature.ravel()[: len(eta)]


def predictors(name):
    eta = np.concatenate([-FAR, NEAR, FAR]).astype(np.float32)
    return eta[np.abs(eta) < LARGEST_EXPONENT] if name == "complementary_log_log" else eta


def exact_moments(name, eta, success):
    values = np.array([[float(x) for x in EXACT[name](float(e), success)] for e in eta]).T
    return values[1], values[2]


def allowed(eta, expected, name):
    """Some roundings; the exponent of a density or a rate has as many more as its size."""
    size = np.minimum(np.abs(eta), 45.0)
    power = size if name == "complementary_log_log" else 1.0
    relative = 1e-6 * (1 + power * 0.1)
    return relative * np.abs(expected) + 1.5e-7 * np.minimum(np.abs(expected) + 1e-3, 1)


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_moments_of_bits_are_accurate_in_both_tails(name, success):
    eta = predictors(name)
    found = found_moments(name, False, 1, eta, np.full(len(eta), float(success)))
    for x, expected in zip(found, exact_moments(name, eta, success), strict=True):
        assert (np.abs(x - expected) <= allowed(eta, expected, name)).all()


@pytest.mark.parametrize("name", EXACT)
def test_moments_of_counts_are_sums_over_both_outcomes(name):
    eta, total, successes = predictors(name), 7, 3
    eta = eta[np.abs(eta) < 40]
    found = found_moments(name, True, total, eta, np.full(len(eta), float(successes)))
    of_success, of_failure = (exact_moments(name, eta, x) for x in (True, False))
    for x, one, other in zip(found, of_success, of_failure, strict=True):
        expected = successes * one + (total - successes) * other
        size = successes * np.abs(one) + (total - successes) * np.abs(other)
        assert (np.abs(x - expected) <= 4 * allowed(eta, size, name)).all()


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_curvatures_change_by_no_more_than_their_bound(name, success):
    exact, bound = EXACT[name], CHANGES[name]
    with mpmath.workdps(60):
        for eta in np.linspace(-30, 12, 169):
            step = mpmath.mpf(10) ** -12
            before, curvature, after = (
                exact(mpmath.mpf(float(eta)) + t, success)[2] for t in (-step, 0, step)
            )
            third = abs(after - before) / (2 * step)
            # What is beyond the bound is lost in float32.
            assert third <= 1.01 * bound * curvature or third < 3e-7
