"""Powers of two as the kernels compute them."""

import numpy as np
import pytest

pytest.importorskip("numba")

from pyro_expfam.deq.cpu.evaluation import LANES, exponential_moments
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT


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


def rates(exponents):
    largest = exponents.dtype.type(LARGEST_EXPONENT[exponents.dtype.type])
    mean, variance = (np.empty(LANES, exponents.dtype) for _ in range(2))
    padded = np.pad(exponents, (0, -len(exponents) % LANES))
    parts = []
    for lanes in padded.reshape(-1, LANES):
        exponential_moments(lanes, largest, mean, variance)
        parts.append(mean.copy())
    return np.concatenate(parts)[: len(exponents)]
