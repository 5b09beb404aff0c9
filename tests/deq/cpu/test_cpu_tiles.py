"""Products of matrices whose columns are lanes."""

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, STRIDE
from pyro_expfam.deq.cpu.registers import BYTES
from pyro_expfam.deq.cpu.tiles import ACROSS, add_products

RANDOM = np.random.default_rng(0)


@numba.njit
def compute(sums, first, number, panel, p, q, entries, count):
    add_products(sums, first, number, panel, p, q, entries, count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_numpy(dtype):
    for number, count in ((1, 1), (2, 16), (3, 5), (4, 0), (7, 16), (13, 3)):
        sums = RANDOM.normal(size=(number + 3, STRIDE)).astype(dtype)
        panel = RANDOM.normal(size=(number + 2, GROUP + 4)).astype(dtype)
        entries = RANDOM.normal(size=(GROUP, LANES)).astype(dtype)
        expected = sums.astype(np.float64)
        factors = panel[2:, 4 : 4 + count].astype(np.float64)
        expected[1 : 1 + number, :LANES] += factors @ entries[:count]
        compute(sums, 1, number, panel, 2, 4, entries, count)
        # Rows before and after, and what is beyond the lanes, stay as they are.
        np.testing.assert_allclose(sums, expected, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_of_a_panel_may_be_contiguous_and_lanes_few(dtype):
    one = BYTES // np.dtype(dtype).itemsize
    for number, count, registers in (
        (1, 1, 1),
        (6, 9, 3),
        (7, 40, ACROSS + 1),
        (66, 5, 2 * ACROSS),
    ):
        sums = RANDOM.normal(size=(number, registers * one)).astype(dtype)
        panel = RANDOM.normal(size=(count + 2, number + 3)).astype(dtype).T
        entries = RANDOM.normal(size=(count, registers * one)).astype(dtype)
        factors = panel[3:, 2:].astype(np.float64)
        expected = sums + factors @ entries
        compute(sums, 0, number, panel, 3, 2, entries, count)
        np.testing.assert_allclose(sums, expected, atol=100 * np.finfo(dtype).eps)
