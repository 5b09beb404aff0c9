"""The sum of log base measures of a table, which counts repeated entries."""

import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import binom, gammaln

import pyro_expfam as pef
from pyro_expfam.joint import SparseTable, StreamedTable, TableInMemory

LIKE = torch.zeros(())


def table_of(family, y, **entries):
    return TableInMemory(family, y.shape[1], LIKE, y, **entries)


@pytest.mark.parametrize("largest", [3, 400, 10**6])
def test_counts_give_the_sum_of_log_factorials(largest):
    y = torch.randint(0, largest + 1, (50, 7)).double()
    expected = -gammaln(y.numpy() + 1)
    found = table_of(pef.families.Poisson(), y).log_base_measure
    assert found == pytest.approx(expected.sum(), rel=1e-12)
    weights, mask = torch.rand(50, 1).double(), torch.rand(50, 7) < 0.8
    found = table_of(pef.families.Poisson(), y, weights=weights, mask=mask).log_base_measure
    of_entries = (weights * mask).float().double().numpy()
    assert found == pytest.approx((expected * of_entries).sum(), rel=1e-6)


@pytest.mark.parametrize("family", [pef.families.Multinomial(), pef.families.Multinomial(total=20)])
@pytest.mark.parametrize("kind", ["memory", "stream", "sparse"])
def test_compositions_give_the_sum_of_log_multinomial_coefficients(family, kind):
    y = torch.distributions.Multinomial(20, torch.rand(6)).sample((50,))
    weights = torch.rand(50, 1)
    batches = [(y[rows], None, None, weights[rows]) for rows in (slice(30), slice(30, 50))]
    table = {
        "memory": lambda: table_of(family, y, weights=weights),
        "stream": lambda: StreamedTable(family, 6, LIKE, batches),
        "sparse": lambda: SparseTable(family, 6, LIKE, csr_matrix(y.numpy()), None, None, weights),
    }[kind]()
    expected = gammaln(21) - gammaln(y.double().numpy() + 1).sum(1)
    assert table.log_base_measure == pytest.approx((weights[:, 0].numpy() * expected).sum())


def test_totals_may_differ_by_column():
    y = torch.randint(0, 4, (50, 3)).double()
    totals = torch.tensor([3.0, 5.0, 9.0])
    expected = torch.as_tensor(binom(totals.double().numpy(), y.numpy())).log().sum()
    for family, right in (
        (pef.families.Binomial(totals), expected),
        (pef.families.Binomial(5), torch.as_tensor(binom(5, y.numpy())).log().sum()),
    ):
        assert table_of(family, y).log_base_measure == pytest.approx(float(right), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "y"),
    [
        (pef.families.Ising(), 2.0 * torch.randint(0, 2, (50, 3)) - 1),
        (pef.families.Bernoulli(), torch.randint(0, 2, (50, 3)).double()),
        (pef.families.NegativeBinomial(size=2.5), torch.randint(0, 9, (50, 3)).double()),
        (pef.families.ZeroTruncatedPoisson(), torch.randint(1, 9, (50, 3)).double()),
        (pef.families.BoseEinstein(spacing=0.5), 0.5 * torch.randint(0, 9, (50, 3))),
        (pef.families.Gaussian(scale=1.0), torch.randn(50, 3)),
    ],
    ids=lambda x: repr(x) if isinstance(x, pef.families.Family) else "",
)
def test_other_laws_give_the_sum_over_entries(family, y):
    expected = float(family.log_base_measure(y.double()).sum())
    assert table_of(family, y).log_base_measure == pytest.approx(expected, rel=1e-6, abs=1e-9)
