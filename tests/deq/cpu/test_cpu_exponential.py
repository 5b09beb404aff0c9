"""Powers of two as the kernels compute them."""

import numpy as np
import pytest

pytest.importorskip("numba")

import numba
import torch

from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.separate_moments import (
    CONTINUOUS_BERNOULLI,
    EXPONENTIAL,
    SeparateLaw,
    separate_moments,
)
from pyro_expfam.families import ContinuousBernoulli


@pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 126.0), (np.float64, 1022.0)])
def test_powers_of_two_are_accurate_to_about_a_rounding(dtype, largest):
    x = np.linspace(-largest, largest, 100_003).astype(dtype)
    precise = np.longdouble if dtype is np.float64 else np.float64
    error = np.abs(rates(x) / np.exp2(x.astype(precise)) - 1).max()
    assert error < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_at_the_ends(dtype):
    found = rates(np.array([-np.inf, -1e4, 0.0, 1e4, np.inf, np.nan], dtype))
    assert (found[:2] <= np.finfo(dtype).tiny).all()
    np.testing.assert_array_equal(found[2:], np.array([1.0, np.inf, np.inf, np.nan], dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 6e-6), (np.float64, 1e-14)])
def test_means_and_variances_of_continuous_bits_are_those_of_the_family(dtype, tolerance):
    """Means are exact to rounding of 1. Variances lose a digit where the series ends."""
    near = np.linspace(-12, 12, 4_001)
    eta = np.concatenate([near, 1e-4 * near, [-1e4, -60.0, 60.0, 1e4, 0.0]]).astype(dtype)
    exponent = (eta / np.log(dtype(2))).astype(dtype)
    mean, variance = moments(CONTINUOUS_BERNOULLI, exponent)
    # The exponents that the kernel has, exactly.
    exact = torch.from_numpy(exponent.astype(np.float64) * np.log(2))
    expected = ContinuousBernoulli().mean_and_variance(exact)
    np.testing.assert_allclose(mean, expected[0], atol=tolerance / 10)
    np.testing.assert_allclose(variance, expected[1], rtol=tolerance)


@numba.njit
def find_moments(law, exponents, count, mean, variance):
    separate_moments(law, exponents, count, mean, variance)


def rates(exponents):
    return moments(EXPONENTIAL, exponents)[0]


def moments(kind, exponents):
    """Means and variances at exponents of two, ``(n,)`` each."""
    number = exponents.dtype.type
    law = SeparateLaw(kind, number(LARGEST_EXPONENT[number]), number(0))
    padded = np.pad(exponents, (0, -len(exponents) % LANES)).reshape(-1, LANES)
    mean, variance = np.empty_like(padded), np.empty_like(padded)
    find_moments(law, padded, len(padded), mean, variance)
    return mean.ravel()[: len(exponents)], variance.ravel()[: len(exponents)]
