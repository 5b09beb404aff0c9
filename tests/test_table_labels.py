"""The names that a data frame gives its rows and columns."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_expfam.table_labels import labels_of


def test_a_frame_names_its_rows_and_columns():
    frame = pd.DataFrame([[1, 2, 3], [4, 5, 6]], index=["a", "b"], columns=["x", "y", "z"])
    rows, columns = labels_of(frame)
    assert rows.tolist() == ["a", "b"]
    assert columns.tolist() == ["x", "y", "z"]


def test_labels_of_a_selection_are_those_of_the_whole_table():
    frame = pd.DataFrame(np.zeros((5, 2)), columns=["x", "y"])
    assert labels_of(frame).rows is None
    assert labels_of(frame.iloc[[4, 1]]).rows.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), ["a, 1", "b, 2"]),
        (pd.Index(["a", 1], dtype=object), ["a", "1"]),
        (pd.CategoricalIndex(["u", "v"]), ["u", "v"]),
        (pd.PeriodIndex(["2020", "2021"], freq="Y"), ["2020", "2021"]),
        (pd.Index(["a", pd.NA], dtype="string"), ["a", "<NA>"]),
        (pd.Index([1.5, 2.5]), [1.5, 2.5]),
    ],
    ids=["levels", "mixed", "categories", "periods", "nullable", "numbers"],
)
def test_labels_of_every_index_can_be_saved(index, expected):
    rows = labels_of(pd.DataFrame({"x": [0, 1]}, index=index)).rows
    assert rows.tolist() == expected
    assert rows.dtype.kind in "biufMU"


def test_an_empty_frame_has_no_labels():
    assert labels_of(pd.DataFrame()) == (None, None)


@pytest.mark.parametrize("table", [torch.ones(2, 2), np.ones((2, 2)), [[1, 2], [3, 4]], None])
def test_arrays_and_lists_have_no_labels(table):
    assert labels_of(table) == (None, None)
