"""A table in batches has the fit of the table in memory."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, StreamedTable, TableInMemory, fit_coefficients

FAMILY = pef.families.Poisson()
LIKE = torch.zeros((), dtype=torch.float64)


def counts(num_rows=90):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 6))).double()


def streamed(batches, family=FAMILY):
    return StreamedTable(family, 6, LIKE, batches)


def fitted(table):
    problem = JointProblem(table, torch.tensor(0.5).double(), 1.0, 0.0)
    return fit_coefficients(problem, 2, FisherScoring(), tol=1e-10)[1]


class ByName(Dataset):
    def __init__(self, **arguments):
        self.arguments = arguments

    def __len__(self):
        return len(self.arguments["y"])

    def __getitem__(self, row):
        return {name: value[row] for name, value in self.arguments.items()}


@pytest.mark.parametrize("size", [7, 90])
@pytest.mark.parametrize("kind", ["y alone", "by position", "by name"])
def test_the_fit_is_that_of_the_table_in_memory(kind, size):
    y, offset = counts(), 0.3 * torch.randn(90, 1).double()
    mask, weights = torch.rand(90, 6) < 0.9, torch.rand(90, 6).double()
    arguments, dataset = {
        "y alone": ({}, y),
        "by position": ({"offset": offset}, TensorDataset(y, offset)),
        "by name": ({"mask": mask, "weights": weights}, ByName(y=y, mask=mask, weights=weights)),
    }[kind]
    whole = TableInMemory(FAMILY, 6, LIKE, y, **arguments)
    table = streamed(DataLoader(dataset, batch_size=size))
    assert table.num_rows == 90
    assert table.log_base_measure == pytest.approx(whole.log_base_measure, rel=1e-12)
    fit = fitted(table)
    expected = fitted(whole)
    assert fit.converged
    assert fit.sweeps[0].objective == pytest.approx(expected.sweeps[0].objective, rel=1e-12)
    assert fit.objective == pytest.approx(expected.objective, rel=1e-8)
    products = (latents @ latents.T for latents in (fit.latents, expected.latents))
    torch.testing.assert_close(*products, rtol=0.0, atol=1e-2)


def test_missing_entries_and_families_by_row():
    total = torch.randint(1, 20, (90, 1))
    family = pef.families.Binomial(total)
    y = torch.binomial(total.double().expand(90, 6), torch.rand(90, 6).double())
    mask = torch.rand(90, 6) < 0.9
    unknown = torch.where(mask, y, torch.nan)
    table = streamed(DataLoader(TensorDataset(unknown, 0 * y, mask), batch_size=20), family)
    fit = fitted(table)
    expected = fitted(TableInMemory(family, 6, LIKE, y, mask=mask))
    assert fit.objective == pytest.approx(expected.objective, rel=1e-8)


def test_integers_stay_integers_until_they_are_needed():
    y = counts().to(torch.int16)
    fit = fitted(TableInMemory(FAMILY, 6, LIKE, y))
    expected = fitted(TableInMemory(FAMILY, 6, LIKE, y.double()))
    assert fit.objective == expected.objective


class Shrinking(Dataset):
    """A dataset that loses rows from one pass to the next."""

    def __init__(self, y, size):
        self.y, self.size = y, size

    def __iter__(self):
        batches = self.y.split(self.size)
        self.y = self.y[:-20]
        return iter(batches)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: DataLoader(y, batch_size=20, shuffle=True), "got other rows in batch 0"),
        (lambda y: DataLoader(y, batch_size=90, shuffle=True), "got other rows in batch 0"),
        (lambda y: Shrinking(y, 10), "got 7 batches where it had 9"),
        (lambda y: Shrinking(y, 80), "got other rows in batch 0"),
    ],
)
def test_a_pass_that_differs_is_refused(make, message):
    table = streamed(make(counts()))
    with pytest.raises(ValueError, match=f"y must give the same rows.*shuffle=False.*{message}"):
        list(table.tiles())


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (iter([torch.ones(2, 6)]), TypeError, "iterated over again and again.*got a list_iterator"),
        ([], ValueError, "got a loader without a batch"),
        ([torch.ones(2, 5)], ValueError, r"y must have shape \(..., rows, 6\)"),
        ([torch.ones(2, 3, 6)], ValueError, r"y must have shape \(rows, 6\), got \(2, 3, 6\)"),
        ([{"y": torch.ones(2, 6), "label": 1}], TypeError, r"a batch must be y.*\['label', 'y'\]"),
        ([(torch.ones(2, 6),) * 5], TypeError, "a batch must be y.*got 5 items"),
    ],
)
def test_bad_batches_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        streamed(batches)


def test_errors_say_in_which_batch():
    y = counts()
    y[41, 2] = 0.5
    with pytest.raises(ValueError, match=r"in the support.*got 0.5 at position \(1, 2\)") as caught:
        streamed(DataLoader(y, batch_size=20))
    assert caught.value.__notes__ == ["in batch 2 of the loader"]
