"""Every table gives the same rows and the same sums, whether in memory or in batches."""

import pytest
import torch
from contract_problems import SMOOTH, every, widened
from torch.utils.data import DataLoader, TensorDataset

from pyro_expfam.joint import StreamedTable, TableInMemory

NUM_ROWS, NUM_FEATURES = 29, 6
LIKE = torch.zeros((), dtype=torch.float64)


def entries(family):
    """Observations, offset, mask and weights of a table."""
    y = family.sample(0.5 * torch.randn(NUM_ROWS, NUM_FEATURES, dtype=torch.float64))
    offset, weights = torch.randn(NUM_ROWS, 1).double(), 0.5 + torch.rand(NUM_ROWS, 6).double()
    return y, offset, torch.rand(NUM_ROWS, NUM_FEATURES) < 0.8, weights


def in_memory(family, given):
    return TableInMemory(family, NUM_FEATURES, LIKE, *given)


def streamed(family, given):
    loader = DataLoader(TensorDataset(*given), batch_size=8)
    return StreamedTable(family, NUM_FEATURES, LIKE, loader)


TABLES = [in_memory, streamed]
every_table = pytest.mark.parametrize("make", TABLES)


def sums(place, rows):
    """Weighted log densities and scores at zero, by column and by row number."""
    eta = torch.zeros_like(rows.y) if rows.offset is None else rows.offset.expand(rows.y.shape)
    number = torch.arange(place.start, place.stop, dtype=torch.float64)
    log_prob = rows.family.log_prob(rows.y, eta) * rows.weights
    score = rows.family.score(eta, rows.y) * rows.weights
    return log_prob.sum().reshape(1), score.sum(0), number @ score


@every_table
@every(SMOOTH)
def test_sums_are_sums_of_present_entries(family, make):
    family = widened(family)
    given = y, offset, mask, weights = entries(family)
    eta = offset.expand(y.shape)
    present = weights * mask
    log_prob, score = family.log_prob(y, eta) * present, family.score(eta, y) * present
    found = make(family, given).sum(sums)
    number = torch.arange(NUM_ROWS, dtype=torch.float64)
    for x, expected in zip(
        found, (log_prob.sum().reshape(1), score.sum(0), number @ score), strict=True
    ):
        torch.testing.assert_close(x, expected)


@every_table
@every(SMOOTH)
def test_the_base_measure_is_what_losses_leave_out(family, make):
    family = widened(family)
    given = y, offset, mask, weights = entries(family)
    eta = offset.expand(y.shape)
    both = (family.log_prob(y, eta) + family.loss(eta, y)) * weights * mask
    assert make(family, given).log_base_measure == pytest.approx(float(both.sum()), rel=1e-8)


@every_table
def test_sums_can_be_taken_again_and_do_not_change_what_was_returned(make):
    family = SMOOTH[2]
    table = make(family, entries(family))
    kept = []

    def of(place, rows):
        kept.append(torch.ones(2, dtype=torch.float64))
        return (kept[-1].clone(),)

    first, second = (table.sum(of)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert float(first[0]) * 2 == len(kept)
    assert all(torch.equal(x, torch.ones(2).double()) for x in kept)


@every_table
def test_rows_come_in_order_and_in_double_precision_where_asked(make):
    family = SMOOTH[2]
    given = entries(family)
    table = make(family, given)
    assert table.num_rows == NUM_ROWS
    places = [place for place, _ in table.tiles()]
    assert [k for place in places for k in range(place.start, place.stop)] == list(range(29))
    assert all(rows.y.dtype == torch.float64 for _, rows in table.double().tiles())


@every_table
def test_a_sum_of_nothing_is_nothing(make):
    family = SMOOTH[2]
    assert make(family, entries(family)).sum(lambda place, rows: ()) == ()
