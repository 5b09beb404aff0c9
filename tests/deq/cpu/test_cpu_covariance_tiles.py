"""Sums of weighted products of deviations equal those of float64, whatever their size."""

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.compilation import OF_KERNELS
from pyro_expfam.deq.cpu.covariance_tiles import add_covariances
from pyro_expfam.deq.cpu.registers import BYTES


@numba.njit(**OF_KERNELS)
def _add(deviation, size, probability, p, count, r, information):
    add_covariances(deviation, size, probability, p, count, r, information)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("size", range(1, 14))
def test_tiles_add_up_to_the_products(size, count, dtype):
    lanes, rng = BYTES // np.dtype(dtype).itemsize, np.random.default_rng(size)
    first, place = lanes, 2
    deviation = rng.normal(size=(count, size, lanes)).astype(dtype)
    probability = rng.random((place + count + 1, 3 * lanes)).astype(dtype)
    before = rng.normal(size=(size * (size + 1) // 2, 3 * lanes)).astype(dtype)
    found = before.copy()
    memory = deviation.reshape(count * size, lanes)
    _add(memory, size, probability, place, count, first, found)
    weight = probability[place : place + count, first : first + lanes].astype(np.float64)
    products = np.einsum("cjr,ckr,cr->jkr", *2 * [deviation.astype(np.float64)], weight)
    expected = before.astype(np.float64)
    expected[:, first : first + lanes] += products[np.tril_indices(size)]
    tolerance = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 10)
