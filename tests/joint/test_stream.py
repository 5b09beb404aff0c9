"""A table in batches has the fit of the table in memory."""

import pandas as pd
import pyro
import pytest
import torch
from quick_cases import in_turn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, StreamedTable, TableInMemory, fit_coefficients

F = pef.families
FAMILY = F.Poisson()
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


@pytest.mark.parametrize(("kind", "size"), in_turn(["y alone", "by position", "by name"], [90, 7]))
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
        ([(torch.ones(2, 6),) * 6], TypeError, "a batch must be y.*got 6 items"),
    ],
)
def test_bad_batches_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        streamed(batches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[["wax", "oil"]], "columns in the same order.*got 'wax' .* has 'oil'"),
        (
            lambda frame: frame.assign(oil=frame["oil"].cat.remove_unused_categories()),
            "same categories in every batch, got 'b' in column 'oil' where .* has 'a', 'b'",
        ),
    ],
    ids=["order", "categories"],
)
def test_batches_of_frames_have_the_same_names(change, message):
    kind = pd.CategoricalDtype(["a", "b"])
    frame = pd.DataFrame({"oil": ["b"] * 4, "wax": ["a", "b"] * 2}, dtype=kind)
    table = [frame.iloc[:2], torch.ones(2, 2), change(frame.iloc[2:])]
    with pytest.raises(ValueError, match=message) as caught:
        StreamedTable(F.Categorical(2), 2, LIKE, [table[0], table[2]])
    assert caught.value.__notes__ == ["in batch 1 of the loader"]
    # An array in between has no names.
    of_frames = StreamedTable(F.Categorical(2), 2, LIKE, [*table[:2], table[0]])
    assert of_frames.num_rows == 6


def test_errors_say_in_which_batch():
    y = counts()
    y[41, 2] = 0.5
    with pytest.raises(ValueError, match=r"in the support.*got 0.5 at position \(1, 2\)") as caught:
        streamed(DataLoader(y, batch_size=20))
    assert caught.value.__notes__ == ["in batch 2 of the loader"]


class Changing:
    """Batches of which one differs from one pass to the next."""

    def __init__(self, arguments, change):
        self.arguments, self.change, self.passes = arguments, change, 0

    def __iter__(self):
        arguments = {name: x.clone() for name, x in self.arguments.items()}
        if self.passes:
            self.change(arguments)
        self.passes += 1
        tables = (dict(zip(arguments, rows, strict=True)) for rows in zip_rows(arguments, 30))
        return iter(list(tables))


def zip_rows(arguments, size):
    return zip(*(x.split(size) for x in arguments.values()), strict=True)


def everything(num_rows=90):
    return {
        "y": counts(num_rows),
        "offset": 0.3 * torch.randn(num_rows, 1).double(),
        "mask": torch.rand(num_rows, 6) < 0.8,
        "weights": torch.rand(num_rows, 6).double(),
    }


def swap_rows_within_a_batch(arguments):
    y = arguments["y"]
    y[[35, 36]] = y[[36, 35]]


def one_entry(name, value):
    def change(arguments):
        x = arguments[name]
        place = (41, 0) if x.shape[1] == 1 else tuple(arguments["mask"].nonzero()[200])
        x[place] = value(x[place])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_rows_within_a_batch, "other rows in batch 1"),
        (one_entry("y", lambda x: x + 1), "other rows in batch 1"),
        (one_entry("offset", lambda x: x * (1 + 1e-15)), "other offset in batch 1"),
        (one_entry("weights", lambda x: x + 1e-12), "other weights in batch 1"),
        (one_entry("mask", lambda x: ~x), "other rows in batch 1|other mask in batch 1"),
    ],
)
def test_a_pass_that_differs_in_one_entry_is_refused(change, message):
    arguments = everything()
    arguments["y"][0] = 3e5
    arguments["y"][35:37] = torch.tensor([[0.0], [1.0]])
    arguments["mask"][35:37] = True
    table = streamed(Changing(arguments, change))
    with pytest.raises(ValueError, match=f"y must give the same rows.*got ({message})"):
        list(table.tiles())


def change_what_is_missing(arguments):
    missing = ~arguments["mask"]
    arguments["y"][missing] = torch.nan
    arguments["weights"][missing] = -torch.inf


def test_missing_entries_may_change_between_passes():
    table = streamed(Changing(everything(), change_what_is_missing))
    before, after = (torch.cat([x.y for _, x in table.tiles()]) for _ in range(2))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["tables", "pairs", "lists", "names"])
def test_a_list_of_batches_serves_as_a_loader(kind):
    y, offset = counts(), 0.3 * torch.randn(90, 1).double()
    parts = list(zip(y.split(40), offset.split(40), strict=True))
    batches = {
        "tables": [rows for rows, _ in parts],
        "pairs": parts,
        "lists": [list(part) for part in parts],
        "names": [{"y": rows, "offset": known} for rows, known in parts],
    }[kind]
    given = {} if kind == "tables" else {"offset": offset}
    model = pef.ExpFamPCA(FAMILY, 6, 2).double()
    fit = pef.DEQMAPGuide(model).fit(batches)
    pyro.clear_param_store()
    whole = pef.DEQMAPGuide(pef.ExpFamPCA(FAMILY, 6, 2).double()).fit(y, **given)
    assert fit.latents.shape == (90, 2)
    assert fit.objective == pytest.approx(whole.objective, rel=1e-8)


@pytest.mark.parametrize("rows", [[[1, 0, 2, 4, 0, 1]] * 8, [(1, 0, 2, 4, 0, 1)] * 8])
def test_a_list_of_rows_stays_a_table(rows):
    fit = pef.DEQMAPGuide(pef.ExpFamPCA(FAMILY, 6, 1)).fit(rows)
    assert fit.latents.shape == (8, 1)


def test_errors_of_frames_name_row_and_column():
    frame = pd.DataFrame(counts().numpy(), columns=list("abcdef"))
    frame.index = [f"plot {k}" for k in range(90)]
    frame.loc["plot 41", "c"] = 0.5
    with pytest.raises(ValueError, match=r"position \(1, 2\), row 'plot 41', column 'c'") as caught:
        streamed([frame[:40], frame[40:]])
    assert caught.value.__notes__ == ["in batch 1 of the loader"]
