"""The quick test of a table lets through what is in the support, and nothing else."""

import pytest
import torch
from torch.distributions import constraints

from pyro_expfam import families as F

pytest.importorskip("numba")

from pyro_expfam.deq.cpu.checks import are_surely_inside

NOWHERE = [torch.nan, torch.inf, -torch.inf, -1.0, 0.5, -1e-30, 1.5, 2.0**22 + 0.5]


def bits(dtype):
    return torch.bernoulli(torch.full((300, 17), 0.5)).to(dtype)


def counts(dtype):
    y = torch.poisson(torch.full((300, 17), 3.0)).to(dtype)
    y[0, :3] = torch.tensor([0.0, 2.0**24, 2.0**40])
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [(0, 0), (150, 9), (299, 16)])
def test_one_entry_tells(dtype, place):
    for support, y in (
        (constraints.boolean, bits(dtype)),
        (constraints.nonnegative_integer, counts(dtype)),
        (constraints.integer_interval(0, 1), bits(dtype)),
        (F.Binomial(9).support, counts(dtype).clamp(max=9)),
        (F.Categorical(5).support, counts(dtype).clamp(max=4)),
    ):
        assert are_surely_inside(support, y)
        for wrong in NOWHERE:
            spoiled = y.clone()
            spoiled[place] = wrong
            assert are_surely_inside(support, spoiled) == bool(support.check(spoiled).all())
            assert not are_surely_inside(support, spoiled)
    spoiled = bits(dtype)
    spoiled[place] = 2.0
    assert not are_surely_inside(constraints.boolean, spoiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [(0, 0), (150, 9), (299, 16)])
def test_one_real_or_positive_entry_tells(dtype, place):
    positive = torch.rand(300, 17, dtype=dtype) + 1e-3
    for support, y in (
        (constraints.positive, positive),
        (constraints.real, torch.randn_like(positive)),
    ):
        assert are_surely_inside(support, y)
        for wrong in (torch.nan, torch.inf, -torch.inf):
            spoiled = y.clone()
            spoiled[place] = wrong
            assert not are_surely_inside(support, spoiled)
    for wrong in (0.0, -1e-30):
        positive[place] = wrong
        assert not are_surely_inside(constraints.positive, positive)


def test_levels_and_totals_end_where_they_should():
    y = torch.full((300, 17), 3.0)
    assert are_surely_inside(constraints.integer_interval(0, 3), y)
    assert not are_surely_inside(constraints.integer_interval(0, 2), y)
    assert not are_surely_inside(constraints.integer_interval(4, 9), y)


def test_the_kernel_accepts_no_other_support():
    assert not are_surely_inside(constraints.unit_interval, torch.zeros(3, 3))
    by_column = F.Binomial(torch.arange(1, 4)).support
    assert not are_surely_inside(by_column, torch.zeros(3, 3))


def test_threads_share_the_rows():
    y = torch.zeros(30_000, 80)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    assert are_surely_inside(constraints.boolean, y)
    for row in (0, 12_345, 29_999):
        spoiled = y.clone()
        spoiled[row, 7] = 0.5
        assert not are_surely_inside(constraints.boolean, spoiled)
    torch.set_num_threads(threads)
