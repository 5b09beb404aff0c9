"""Evidence where the mean of an entry overflows at some of the latents that are looked at."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.evidence import importance_evidence, importance_latents, quadrature_evidence

COUNTS = pef.families.Poisson()
STEEP = 300.0
"""The mean of an entry with this loading is infinite from 2.4 standard deviations on."""


def doubles(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def tables(request):
    """A table whose last column is missing and steep, and the same table without the column."""
    W, b = doubles([0.5], [0.8], [STEEP]).to(request.param), torch.zeros(3, dtype=request.param)
    y, mask = torch.poisson(torch.full((20, 3), 2.0)), torch.tensor([True, True, False])
    return (COUNTS, y, W, b, 1.0, None, mask), (COUNTS, y[:, :2], W[:2], b[:2])


def test_missing_entries_do_not_limit_the_integral(tables):
    found, expected = (quadrature_evidence(*table) for table in tables)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_missing_entries_do_not_disturb_importance_sampling(tables):
    with_missing, without = tables
    found = importance_evidence(*with_missing, num_draws=500)
    error = found.log_evidence - quadrature_evidence(*without)
    assert float((error / found.standard_error).abs().max()) < 4.5
    latents = importance_latents(*with_missing, num_samples=500)
    assert latents.isfinite().all()
