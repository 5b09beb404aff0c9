"""Categories in data frames: numbers of levels, and names."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_expfam.table_categories import as_levels, categories_of, level_names, with_codes

LEVELS = ["never", "some", "often"]
COLUMNS = ["wine", "beer", "tea"]


def frame(num_rows=30):
    codes = torch.randint(3, (num_rows, len(COLUMNS))).numpy()
    index = [f"r{row}" for row in range(num_rows)]
    words = pd.DataFrame(np.array(LEVELS)[codes], columns=COLUMNS, index=index)
    return codes, words.astype(pd.CategoricalDtype(LEVELS))


def test_categories_become_their_numbers_in_the_order_that_they_have():
    codes, words = frame()
    found = with_codes(words)
    np.testing.assert_array_equal(found.to_numpy(), codes)
    assert list(found.columns) == COLUMNS
    assert list(found.index) == list(words.index)
    backwards = words.apply(lambda column: column.cat.reorder_categories(LEVELS[::-1]))
    np.testing.assert_array_equal(with_codes(backwards).to_numpy(), 2 - codes)


def test_missing_categories_are_missing_numbers():
    codes, words = frame()
    missing = torch.rand(codes.shape).numpy() < 0.3
    found = with_codes(words.mask(missing)).to_numpy()
    np.testing.assert_array_equal(np.isnan(found), missing)
    np.testing.assert_array_equal(found[~missing], codes[~missing])


def test_columns_of_one_name_are_told_apart():
    codes, words = frame()
    words.columns = ["tea", "tea", "wine"]
    np.testing.assert_array_equal(with_codes(words).to_numpy(), codes)


def test_categories_that_are_numbers_are_values():
    numbers = pd.DataFrame({"a": pd.Categorical([0, 2, 2], categories=[0, 2])})
    assert categories_of(numbers) is None
    assert with_codes(numbers) is numbers


@pytest.mark.parametrize(
    "make", [torch.tensor, np.array, pd.DataFrame, list], ids=["tensor", "array", "frame", "list"]
)
def test_numbers_stay_as_they_are(make):
    table = make([[0, 1], [2, 1]])
    assert as_levels(table, 3) is table


@pytest.mark.parametrize(
    ("table", "where"),
    [
        (pd.DataFrame({"a": [0, 1], "b": ["x", "y"]}), "'x' in column 'b'"),
        (pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": ["u", "v"]}), "'u' in column 'b'"),
        (np.array([["x", "y"]]), "'x'"),
        (np.array([[1, "y"]], dtype=object), "'y'"),
        ([["x", "y"]], "'x'"),
    ],
)
def test_strings_are_refused_with_what_to_do(table, where):
    message = f"y must hold whole numbers 0 to 2, or categories of pandas, got {where}: make cat"
    with pytest.raises(TypeError, match=message):
        as_levels(table, 3)


def test_too_many_categories_are_refused_with_their_column():
    _, words = frame()
    with pytest.raises(ValueError, match=r"at most 2 categories .* got 3 in column 'wine'"):
        as_levels(words, 2)
    assert with_codes(words).equals(as_levels(words, 5))


def test_levels_without_a_name_have_their_number():
    assert level_names(["a"], 3, [["x", "y"]]) == ["a=x", "a=y", "a=2"]
    assert level_names([7, 9], 2) == ["7=0", "7=1", "9=0", "9=1"]


def test_the_order_of_ordered_numbers_counts():
    column = pd.Categorical([0, 1, 2, 1], categories=[2, 1, 0], ordered=True)
    frame = pd.DataFrame({"answer": column})
    assert categories_of(frame) == [["2", "1", "0"]]
    assert with_codes(frame)["answer"].tolist() == [2.0, 1.0, 0.0, 1.0]
