"""Data frames as they are read from a file, with columns that hold no numbers."""

import pandas as pd
import pytest
import torch

import pyro_expfam as pef

F = pef.families
NUM_ROWS = 30
NAME = r"column 'id' has another text in each row"
DATE = r"column 'date' holds datetime64\[\w+\]"


def people():
    """A table with a name and a date of each row, and two columns of texts."""
    generator = torch.Generator().manual_seed(0)
    number = torch.randint(0, 3, (NUM_ROWS, 4), generator=generator)
    return pd.DataFrame(
        {
            "id": [f"r{row}" for row in range(NUM_ROWS)],
            "city": [("Bonn", "Rome", "Oslo")[k] for k in number[:, 0]],
            "visits": number[:, 1].numpy(),
            "sex": [("f", "m", "f")[k] for k in number[:, 2]],
            "weight": number[:, 3].numpy() + 0.5,
            "date": pd.date_range("2020-01-01", periods=NUM_ROWS),
        }
    )


TEXTS = r"column 'city' holds texts \(3 .*column 'sex' holds texts \(2 different, such as '[fm]'\)"


def test_the_estimator_names_all_columns_whose_family_it_cannot_tell():
    words = rf"families can be told; {NAME}.*{TEXTS}: make categories .*{DATE}: drop it"
    with pytest.raises(ValueError, match=words):
        pef.ExponentialFamilyPCA(1).fit(people())
    frame = people().drop(columns=["id", "date"]).astype({"city": "category", "sex": "category"})
    assert pef.ExponentialFamilyPCA(1).fit(frame).family_.names == tuple(frame.columns)


def test_the_estimator_of_a_given_family_names_all_of_them_too():
    words = rf"X must hold numbers or categories in all columns; {NAME}.*{TEXTS}.*{DATE}: drop"
    with pytest.raises(TypeError, match=words):
        pef.ExponentialFamilyPCA(1, family="gaussian").fit(people())


def test_a_guide_of_one_family_names_all_of_them():
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 6, 1))
    words = rf"y must hold numbers; {NAME}, .*{TEXTS}, {DATE}: leave them out, or take Columns"
    with pytest.raises(TypeError, match=words):
        guide.fit(people())
    regression = pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 1, 1, num_covariates=2))
    with pytest.raises(TypeError, match=rf"covariates must hold numbers; {TEXTS}"):
        regression.fit(people()[["visits"]], covariates=people()[["city", "sex"]])


def test_a_mixed_table_names_all_columns_that_do_not_fit_their_families():
    laws = {
        "city": F.Categorical(3),
        "visits": F.Poisson(),
        "sex": F.Bernoulli(),
        "weight": F.Poisson(),
    }
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Columns(laws), None, 1))
    frame = people().drop(columns=["id", "date"])
    with pytest.raises(TypeError) as found:
        guide.fit(frame)
    for words in (
        "column 'city' of y must hold whole numbers 0 to 2 or categories of pandas",
        "column 'sex' of y must hold 0 or 1 or two categories of pandas",
        "column 'weight' of y must hold",
    ):
        assert words in str(found.value)
    assert "visits" not in str(found.value)


@pytest.mark.parametrize("family", [F.Categorical(3), F.Ordinal(3)])
def test_a_table_of_levels_names_all_columns_of_texts(family):
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, 3, 1))
    texts = r"got '\w+' in column 'city', '[fm]' in column 'sex': make categories"
    with pytest.raises(TypeError, match=texts):
        guide.fit(people()[["city", "visits", "sex"]])


def test_all_columns_without_an_order_and_with_too_many_categories_are_named():
    frame = people()[["city", "sex"]].astype("category")
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Ordinal(3), 2, 1))
    with pytest.raises(ValueError, match=r"in column 'city', Bonn, .*; column 'sex', f, m: say it"):
        guide.fit(frame)
    frame["sex"] = frame["city"].to_numpy()
    frame["sex"] = frame["sex"].astype("category")
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Categorical(2), 2, 1))
    with pytest.raises(ValueError, match="got 3 in column 'city', 3 in column 'sex'"):
        guide.fit(frame)


def test_objects_that_are_numbers_are_a_table():
    y = pd.DataFrame({"a": [1, 2, 0, None], "b": [0, 1, 3, 2]}).astype(object)
    plain = pd.DataFrame({"a": [1.0, 2.0, 0.0, float("nan")], "b": [0.0, 1.0, 3.0, 2.0]})
    fits = [
        pef.ExponentialFamilyPCA(1, family="poisson", random_state=0).fit(x) for x in (y, plain)
    ]
    assert (fits[0].components_ == fits[1].components_).all()
