"""Losses under a link and their derivatives equal mpmath, from one tail to the other."""

import mpmath
import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.compilation import OF_KERNELS
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.outcomes import ComplementaryLogLogLink, ProbitLink, outcome

FAR = np.logspace(1.7, 4, 15)
NEAR = np.concatenate([np.linspace(-45, 45, 121), np.logspace(-9, -1, 9)])
PREDICTORS = np.concatenate([-FAR, NEAR, -np.logspace(-9, -1, 9), FAR])
LARGEST_EXPONENT = 690
"""Beyond this predictor a rate is no number of float64."""


@numba.njit(**OF_KERNELS)
def _outcomes(link, eta, success, found):
    for k in range(len(eta)):
        found[0, k], found[1, k], found[2, k] = outcome(link, eta[k], success)


@numba.njit(**OF_KERNELS)
def _logs(x, found):
    for k in range(len(x)):
        found[k] = natural_log(x[k])


def outcomes(link, eta, success):
    found = np.full((3, len(eta)), np.nan)
    _outcomes(link, eta, success, found)
    return found


def probit(eta, success):
    """The loss by the complementary error function, and its derivatives by Mills' ratio."""
    x = mpmath.mpf(eta) * (1 if success else -1)
    with mpmath.workdps(40):
        if x < -40:
            # A continued fraction (Abramowitz and Stegun, 26.2.14).
            ratio = -x
            for n in range(60, 0, -1):
                ratio = -x + n / ratio
            loss = x * x / 2 + mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(ratio)
        else:
            tail = mpmath.erfc(-x / mpmath.sqrt(2)) / 2
            ratio = mpmath.npdf(x) / tail
            loss = (
                -mpmath.log(tail) if x < 0 else -mpmath.log1p(-mpmath.erfc(x / mpmath.sqrt(2)) / 2)
            )
        return loss, -ratio if success else ratio, ratio * (ratio + x)


def complementary_log_log(eta, success):
    """The loss by the rate, and its derivatives."""
    with mpmath.workdps(40):
        rate = mpmath.exp(mpmath.mpf(eta))
        if not success:
            return rate, rate, rate
    if rate > 800:
        return 0, 0, 0
    with mpmath.workdps(int(60 + rate / 2 + 2 * abs(eta))):
        rate = mpmath.exp(mpmath.mpf(eta))
        share = rate / mpmath.expm1(rate)
        return -mpmath.log1p(-mpmath.exp(-rate)), -share, share * (rate + share - 1)


LINKS = [(ProbitLink, probit), (ComplementaryLogLogLink, complementary_log_log)]


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize(("link", "exact"), LINKS)
def test_losses_and_derivatives_are_accurate_in_both_tails(link, exact, success):
    eta = PREDICTORS if link is ProbitLink else PREDICTORS[PREDICTORS < LARGEST_EXPONENT]
    found = outcomes(link(False), eta, success)
    expected = np.array([[float(x) for x in exact(e, success)] for e in eta]).T
    # The exponent of a density of 1e-300 has rounding errors of 1e-13.
    np.testing.assert_allclose(found, expected, rtol=4e-13, atol=1e-290)


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("link", [ProbitLink, ComplementaryLogLogLink])
def test_no_predictor_gives_nan_or_infinity(link, success):
    eta = np.concatenate([-np.logspace(-300, 150, 200), np.logspace(-300, 150, 200), [0.0]])
    if link is ComplementaryLogLogLink and success:
        eta = eta[eta > -1e100]
    found = outcomes(link(False), eta, success)
    assert np.isfinite(found).all()
    loss, _, curvature = found
    assert (loss >= 0).all()
    assert (curvature >= 0).all()


def test_the_logarithm_is_accurate_to_a_rounding():
    x = np.concatenate([np.logspace(-300, 300, 5000), 1 + np.linspace(-0.3, 0.42, 5000)])
    found = np.empty_like(x)
    _logs(x, found)
    expected = np.log(x)
    assert (np.abs(found - expected) <= 2 * np.spacing(np.abs(expected))).all()
