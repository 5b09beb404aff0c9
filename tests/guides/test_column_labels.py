"""Data frames whose columns are not the ones that a guide was trained on."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyarrow
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from pyro.optim import Adam

import pyro_expfam as pef

POISSON = pef.families.Poisson()
COLUMNS = list("abcde")


def frame(columns=COLUMNS, num_rows=20):
    y = torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 5) / 2))
    return pd.DataFrame(y.numpy(), columns=columns)


def fitted(table, **settings):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2), **settings)
    guide.fit(table, max_sweeps=20, max_time=60.0)
    return guide


USES = {
    "call": lambda guide, y: guide(y),
    "median": lambda guide, y: guide.median(y),
    "latents": lambda guide, y: guide.latents(y),
    "posterior": lambda guide, y: guide.posterior(y),
    "evidence": lambda guide, y: guide.log_evidence(y),
    "importance evidence": lambda guide, y: guide.importance_evidence(y),
    "quadrature": lambda guide, y: guide.quadrature_evidence(y),
    "importance": lambda guide, y: guide.importance_latents(y),
    "globals": lambda guide, y: guide.update_globals(y),
    "check": lambda guide, y: pef.check(guide.model, guide, y, num_draws=50),
    "arviz": lambda guide, y: pef.to_arviz(guide.model, guide, y, num_samples=2),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_frame_with_other_columns_is_refused_and_named(use):
    table = frame()
    guide = fitted(table, globals="laplace")
    use(guide, table)
    with pytest.raises(ValueError, match="order that the guide was trained on, got 'e' where it"):
        use(guide, table[COLUMNS[::-1]])
    with pytest.raises(ValueError, match="without 'b', 'd' and with 'x', 'y' in their place"):
        use(guide, table.rename(columns={"b": "x", "d": "y"}))


def as_batches(table):
    return [table[:8], table[8:]]


def as_batches_by_name(table):
    return [{"y": batch} for batch in as_batches(table)]


def as_arrow(table):
    return pyarrow.Table.from_pandas(table).to_batches(max_chunksize=8)


@pytest.mark.parametrize("batches", [as_batches, as_batches_by_name, as_arrow])
def test_the_columns_of_batches_are_remembered(batches):
    levels = pd.CategoricalDtype(["none", "some"])
    table = (frame() > 0).replace({True: "some", False: "none"}).astype(levels)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Categorical(2), 5, 1))
    guide.fit(batches(table), max_sweeps=20, max_time=60.0)
    assert guide.column_labels() == COLUMNS
    with pytest.raises(ValueError, match="order that the guide was trained on, got 'e' where it"):
        guide.latents(table[COLUMNS[::-1]])
    other = table.assign(a=table["a"].cat.reorder_categories(["some", "none"]))
    with pytest.raises(ValueError, match="got 'some', 'none' where column 'a' had 'none', 'some'"):
        guide.latents(other)
    guide.fit([np.eye(5), np.eye(5)], max_sweeps=2, max_time=60.0, callback=lambda _: True)
    assert guide.column_labels() is None


def test_numbers_without_labels_are_taken_by_position():
    table = frame()
    guide = fitted(table)
    expected = guide.latents(table)
    plain = table.to_numpy().copy()
    for same in (plain, torch.as_tensor(plain), pd.DataFrame(plain), plain.tolist()):
        torch.testing.assert_close(guide.latents(same), expected)
    guide = fitted(plain)
    guide.latents(table[COLUMNS[::-1]])
    # Numbers that are not in their order are labels.
    guide = fitted(pd.DataFrame(plain))
    guide.latents(table)
    with pytest.raises(ValueError, match="got 4 where it had 0"):
        guide.latents(pd.DataFrame(plain)[[4, 1, 2, 3, 0]])


def test_labels_of_several_levels_and_repeated_labels():
    levels = pd.MultiIndex.from_product([["x"], COLUMNS])
    table = frame(levels)
    guide = fitted(table)
    guide.latents(table)
    with pytest.raises(ValueError, match=r"got \('x', 'b'\) where it had \('x', 'a'\)"):
        guide.latents(table.iloc[:, [1, 0, 2, 3, 4]])
    guide = fitted(frame(["a", "a", "b", "c", "d"]))
    with pytest.raises(ValueError, match="without 'a' and with 'b' in"):
        guide.latents(frame(["a", "b", "b", "c", "d"]))


def test_the_labels_belong_to_the_last_fit_and_to_all_guides_of_its_parameters():
    table = frame()
    turned = table[COLUMNS[::-1]]
    guide = fitted(table)
    other = pef.LaplaceGuide(guide.model, params=guide)
    for one in (pickle.loads(pickle.dumps(guide)), copy.deepcopy(guide), copy.copy(guide), other):
        with pytest.raises(ValueError, match="order"):
            one.latents(turned)
    guide.fit(turned, max_sweeps=20)
    guide.latents(turned)
    with pytest.raises(ValueError, match="order"):
        other.latents(table)
    # A saved state does not say what it was trained on.
    guide.load_state_dict(guide.state_dict())
    guide.latents(table)


def test_a_posterior_of_a_call_remembers_its_columns():
    table = frame()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2), globals="laplace")
    guide(table)
    with pytest.raises(ValueError, match="order"):
        guide.latents(table[COLUMNS[::-1]])


class Two(PyroModule):
    def __init__(self):
        super().__init__()
        self.first = pef.ExpFamPCA(POISSON, 5, 2)
        self.second = pef.ExpFamPCA(POISSON, 5, 1)

    def forward(self, y, x):
        return self.first(y), self.second(x)


def test_svi_remembers_the_columns_of_each_block():
    y, x = frame(), frame(list("vwxyz"))
    model = Two()
    guide = pef.DEQMAPGuide(model)
    # A call that trains nothing settles nothing.
    with torch.no_grad():
        guide(x, y)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(y, x)
    svi.step(y[:10], x[:10])
    for wrong in ((y, x[list("vwxzy")]), (x, y)):
        with pytest.raises(ValueError, match="that the guide was trained on"):
            svi.step(*wrong)
    guide.block("second").latents(x)
    with pytest.raises(ValueError, match="that the guide was trained on"):
        guide.block("first").latents(x)
    pyro.clear_param_store()
    assert np.isfinite(svi.step(y.to_numpy(), x.to_numpy()))


@pytest.mark.parametrize("name", ["column_labels", "covariate_labels", "column_categories"])
def test_names_of_no_table_and_of_several_blocks_are_refused(name):
    new = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, 1))
    with pytest.raises(RuntimeError, match="has not seen data yet, and knows no names"):
        getattr(new, name)()
    model = Two()
    several = pef.DEQMAPGuide(model)
    several(frame(), frame())
    with pytest.raises(
        ValueError, match=r"single block for its names, got .* \['first', 'second'\]"
    ):
        getattr(several, name)()
