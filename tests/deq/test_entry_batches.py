"""Batch dimensions of offset, mask and weights beyond those of the table."""

import itertools

import pytest
import torch

import pyro_expfam as pef

COUNTS = pef.families.Poisson()


@pytest.mark.parametrize("y_batch", [(), (2,), (1,), (3, 1), (3, 2)])
@pytest.mark.parametrize("batch", [(), (2,), (3, 1), (3, 2)])
@pytest.mark.parametrize("name", ["offset", "mask", "weights"])
def test_a_table_is_repeated_along_the_batches_of_its_entries(name, batch, y_batch):
    W, b = torch.randn(4, 2).double(), torch.randn(4).double()
    y = torch.poisson(torch.ones(*y_batch, 5, 4)).double()
    entries = {
        "offset": torch.randn(*batch, 5, 1).double(),
        "mask": torch.rand(*batch, 5, 4) < 0.7,
        "weights": torch.rand(*batch, 5, 4).double(),
    }[name]
    found = pef.solve_latents(COUNTS, y, W, b, **{name: entries}).value
    shape = torch.broadcast_shapes(y_batch, batch)
    assert found.shape == (*shape, 5, 2)
    tables, given = y.expand(*shape, 5, 4), entries.expand(*shape, *entries.shape[-2:])
    for place in itertools.product(*map(range, shape)):
        alone = pef.solve_latents(COUNTS, tables[place], W, b, **{name: given[place]}).value
        torch.testing.assert_close(found[place], alone)


def test_batches_that_do_not_broadcast_are_named():
    y, W, b = torch.ones(5, 4), torch.ones(4, 1), torch.zeros(4)
    with pytest.raises(ValueError, match=r"must broadcast, got \(2,\), \(3,\)"):
        pef.solve_latents(COUNTS, y, W, b, offset=torch.zeros(2, 5, 1), weights=torch.ones(3, 5, 4))


def test_latents_have_a_standard_normal_prior_by_default():
    y, W, b = torch.poisson(torch.ones(5, 4)).double(), torch.randn(4, 2).double(), torch.zeros(4)
    z = pef.solve_latents(COUNTS, y, W, b.double()).value
    residual = y - torch.exp(z @ W.T)
    torch.testing.assert_close(residual @ W, z, rtol=0, atol=1e-6)
