"""Names of rows and columns, from the data frames that a model is given."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.checks.names import Names, listing, names_of


def frame_of(values, prefix):
    num_rows, num_columns = values.shape
    return pd.DataFrame(
        values,
        index=[f"{prefix}row{place}" for place in range(num_rows)],
        columns=[f"{prefix}{place}" for place in range(num_columns)],
    )


def test_the_frame_that_holds_the_table_names_it():
    y = torch.poisson(torch.ones(4, 3))
    frame, other = frame_of(y.numpy(), "a"), frame_of(y.numpy() + 1, "b")
    present = torch.ones(4, 3, dtype=torch.bool)
    for arguments in ([frame], [other, frame], [y, None, 3, other, frame]):
        names = names_of(arguments, y, present)
        assert names.columns == ["a0", "a1", "a2"]
        assert names.row(2) == "arow2"
    assert names_of([other, y], y, present) == Names(None, None)
    assert Names().column(2) == "2"


def test_missing_entries_of_a_frame_may_hold_anything():
    y = torch.poisson(torch.ones(4, 3))
    frame = frame_of(y.numpy().astype(float), "a")
    frame.iloc[1, 1] = np.nan
    present = torch.ones(4, 3, dtype=torch.bool)
    assert names_of([frame], y, present).columns is None
    present[1, 1] = False
    assert names_of([frame], y, present).columns == ["a0", "a1", "a2"]


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "object", "boolean"])
def test_a_nullable_frame_names_its_table(dtype):
    y = torch.bernoulli(torch.full((4, 3), 0.5))
    frame = frame_of(y.numpy(), "a").astype(bool if dtype == "boolean" else float).astype(dtype)
    present = torch.ones(4, 3, dtype=torch.bool)
    assert names_of([frame], y, present).columns == ["a0", "a1", "a2"]
    frame.iloc[1, 1] = pd.NA
    assert names_of([frame], y, present) == Names()
    present[1, 1] = False
    assert names_of([frame], y, present).columns == ["a0", "a1", "a2"]


def test_frames_of_other_things_name_nothing():
    y = torch.ones(2, 2)
    words = pd.DataFrame([["a", "b"], ["c", "d"]])
    assert names_of([words], y, torch.ones(2, 2, dtype=torch.bool)) == Names()


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "object", "boolean"])
def test_a_nullable_frame_with_its_mask_is_checked(dtype):
    y = torch.bernoulli(torch.full((30, 4), 0.4))
    frame = frame_of(y.numpy(), "a").astype(bool if dtype == "boolean" else float).astype(dtype)
    frame.iloc[0, 0] = pd.NA
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 4, 1)
    guide = pef.DEQMAPGuide(model)
    guide.fit(frame, mask=frame.notna())
    report = pef.check(model, guide, frame, mask=frame.notna())
    assert report.blocks[""].names.columns == ["a0", "a1", "a2", "a3"]


def test_long_lists_are_cut():
    assert listing("abcde") == "a, b, c, d, e"
    assert listing("abcdef") == "a, b, c, d, e, ..."


def test_a_report_of_a_frame_speaks_of_its_names():
    y = torch.poisson(torch.exp(torch.randn(80, 1) @ torch.randn(1, 6) / 2 + 1))
    y[11, 2] = 90.0
    y[:, 4] = 0.0
    frame = frame_of(y.numpy(), "species ")
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 1, intercept_scale=None)
    guide = pef.DEQMAPGuide(model)
    guide.fit(frame)
    report = pef.check(model, guide, frame)
    worst = report.blocks[""].fit_to_data.worst
    flat = " ".join(str(report).split())
    assert f"in row species row{worst.row}, column species {worst.column}, where" in flat
    assert "1 feature (species 4) is at one edge" in flat
    assert f"in row {worst.row}, column " in " ".join(str(pef.check(model, guide, y)).split())


def test_a_report_names_columns_whose_coefficients_have_no_normal_posterior():
    y = torch.poisson(torch.full((40, 4), 2.0))
    reports = []
    for values in (y, torch.cat([torch.zeros(40, 1), y[:, 1:]], 1)):
        frame = frame_of(values.numpy(), "species ")
        model = pef.ExpFamPCA(pef.families.Poisson(), 4, 1, intercept_scale=100.0)
        guide = pef.LaplaceGuide(model, globals="laplace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            guide.fit(frame)
        reports.append(" ".join(str(pef.check(model, guide, frame)).split()))
    assert "ok loading no column" in reports[0]
    assert "PROBLEM loading" in reports[1]
    assert "in 1 of 4 features (species 0): do not rely on their intervals" in reports[1]
