"""The names of dimensions, and the labels that data frames bring."""

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

import pyro_expfam as pef

SAMPLE = ("chain", "draw")


def counts(num_rows, num_features):
    return torch.poisson(torch.full((num_rows, num_features), 2.0))


def guide_of(y, latent_dim=2, **arguments):
    model = pef.ExpFamPCA(pef.families.Poisson(), y.shape[-1], latent_dim)
    guide = pef.LaplaceGuide(model)
    guide(y, **arguments)
    return guide


def convert(guide, *args, **settings):
    return pef.to_arviz(guide.model, guide, *args, **{"num_samples": 3, **settings})


def dims(idata, group):
    return {name: array.dims for name, array in idata[group].data_vars.items()}


@pytest.mark.parametrize("masked", [False, True])
def test_square_tables_have_the_right_dimensions(masked):
    size = 4
    mask = torch.ones(size, size, dtype=torch.bool)
    mask[0, 0] = not masked
    arguments = {"offset": torch.randn(size, 1), "mask": mask}
    y = counts(size, size)
    idata = convert(guide_of(y, size, **arguments), y, **arguments)

    latents = {
        "loading": (*SAMPLE, "feature", "latent"),
        "intercept": (*SAMPLE, "feature"),
        "z": (*SAMPLE, "row", "latent"),
    }
    table = {"y": (*SAMPLE, "row", "feature")}
    assert dims(idata, "posterior") == dims(idata, "prior") == latents
    present = {"y_present": (*SAMPLE, "y_entry")} if masked else {}
    assert dims(idata, "prior_predictive") == table
    assert dims(idata, "posterior_predictive") == table | present
    assert dims(idata, "log_likelihood") == (present or table)
    assert dims(idata, "observed_data")["y"] == ("row", "feature")
    stats = dims(idata, "sample_stats")
    assert stats.pop("lp") == stats.pop("log_q") == SAMPLE
    assert stats.pop("mean_shift") == ("row", "latent")
    assert set(stats.values()) == {("row",)}
    assert dims(idata, "constant_data") == {
        "mask": ("row", "feature"),
        "offset": ("row", "offset_dim_1"),
    }


def test_a_vector_that_may_be_of_rows_or_features_is_called_neither():
    y, offset = counts(5, 5), torch.randn(5)
    idata = convert(guide_of(y), y, offset)
    assert dims(idata, "constant_data") == {"offset": ("offset_dim_0",)}


def test_an_offset_by_feature_has_its_dimension():
    y, offset = counts(5, 5), torch.randn(1, 5)
    idata = convert(guide_of(y), y, offset)
    assert dims(idata, "constant_data") == {"offset": ("offset_dim_0", "feature")}


def test_a_site_names_the_dimension_of_its_plate():
    def model(y):
        level = pyro.sample("level", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("people", len(y)):
            law = pyro.distributions.Normal(level, 1.0)
            pyro.sample("y", law, obs=y, infer={"plate_dims": {"people": "person"}})
            pyro.deterministic("twice", 2 * y)

    guide = AutoNormal(model)
    guide(torch.randn(4))
    idata = pef.to_arviz(model, guide, torch.randn(4), num_samples=3)
    assert dims(idata, "observed_data") == {"y": ("person",)}
    assert dims(idata, "posterior")["twice"] == (*SAMPLE, "person")


@pytest.fixture
def frame():
    return pd.DataFrame(
        counts(6, 5).numpy(),
        index=[f"site {row}" for row in range(6)],
        columns=["oak", "elm", "ash", "yew", "fir"],
    )


def labels(idata, group, dim):
    return idata[group][dim].values.tolist()


def test_names_of_a_frame_reach_every_group(frame):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    guide.fit(frame)
    idata = convert(guide, frame)
    for group in ("posterior", "log_likelihood", "observed_data", "prior_predictive"):
        assert labels(idata, group, "feature") == list(frame.columns)
    for group in ("posterior", "sample_stats", "prior", "posterior_predictive"):
        assert labels(idata, group, "row") == list(frame.index)
    found = idata["observed_data"]["y"].sel(row="site 2", feature="ash")
    assert float(found) == frame.loc["site 2", "ash"]


@pytest.mark.parametrize("dtype", [np.float64, "Float64"])
def test_names_of_a_frame_survive_a_mask_and_single_precision(frame, dtype):
    frame = (frame + 0.1).astype(dtype)
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[1, 3] = False
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Gaussian(), 5, 2))
    guide(frame, mask=mask)
    idata = convert(guide, frame, mask=mask)
    assert labels(idata, "posterior", "feature") == list(frame.columns)
    assert labels(idata, "predictions", "y_entry_row") == ["site 1"]
    assert labels(idata, "predictions", "y_entry_feature") == ["yew"]
    # What is observed is not constant data as well, though its last digits are rounded.
    assert dims(idata, "constant_data") == {"mask": ("row", "feature")}


def test_labels_given_as_coords_come_first(frame):
    names = list("abcde")
    idata = convert(guide_of(frame), frame, coords={"feature": names})
    assert labels(idata, "posterior", "feature") == names
    assert labels(idata, "posterior", "row") == list(frame.index)


def test_an_offset_names_rows_where_the_table_does_not(frame):
    y = torch.tensor(frame.values)
    offset = pd.DataFrame(np.zeros((6, 1)), index=frame.index)
    idata = convert(guide_of(y, offset=offset), y, offset)
    assert labels(idata, "posterior", "row") == list(frame.index)


class TwoTables(PyroModule):
    def __init__(self):
        super().__init__()
        self.genes = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
        self.marks = pef.ExpFamPCA(pef.families.Bernoulli(), 4, 1)

    def forward(self, counts, bits):
        self.genes(counts)
        self.marks(bits)


def test_every_block_has_the_names_of_its_frame(frame):
    bits = pd.DataFrame(np.eye(6, 4), index=frame.index, columns=list("pqrs"))
    guide = pef.LaplaceGuide(TwoTables())
    guide(frame, bits)
    idata = convert(guide, frame, bits)
    assert labels(idata, "posterior", "genes.feature") == list(frame.columns)
    assert labels(idata, "posterior", "marks.feature") == list(bits.columns)
    assert labels(idata, "posterior", "marks.row") == list(frame.index)


def test_names_of_several_levels_can_be_saved(frame, tmp_path):
    frame.columns = pd.MultiIndex.from_product([["tree"], frame.columns])
    convert(guide_of(frame), frame).to_netcdf(tmp_path / "posterior.nc")
    again = az.from_netcdf(tmp_path / "posterior.nc")
    assert labels(again, "posterior", "feature")[:2] == ["tree, oak", "tree, elm"]
