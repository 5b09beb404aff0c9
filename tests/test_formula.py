"""Covariates by a formula keep the coding of the frame that they were made of."""

import pickle

import numpy as np
import pandas as pd
import pytest

import pyro_expfam as pef

pytest.importorskip("formulaic")


def cells(num_rows=30):
    random = np.random.default_rng(0)
    batch = np.array(["a", "b", "c"])[np.arange(num_rows) % 3]
    return pd.DataFrame({"batch": batch, "age": random.normal(40, 10, num_rows)})


def test_rows_are_coded_as_in_the_first_frame():
    frame = cells()
    design = pef.Design("~ batch + scale(age)", frame)
    whole = design(frame)
    assert design.names == list(whole.columns)
    assert design.num_covariates == 3
    assert whole["scale(age)"].mean() == pytest.approx(0.0, abs=1e-12)
    one = design(frame[frame["batch"] == "b"])
    pd.testing.assert_frame_equal(one, whole[frame["batch"] == "b"])
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(design))(frame), whole)


def test_the_intercept_is_left_out():
    frame = cells()
    assert pef.Design("~ age", frame).names == ["age"]
    assert len(pef.Design("~ 0 + batch", frame).names) == 3


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("age ~ batch", "formula must have no left-hand side"),
        ("~ 1", "a covariate beside the intercept"),
        ("~ sex", "columns of the formula '~ sex', got one with 'batch', 'age', 'site'"),
        ("~ age +", "formula must be one of formulaic"),
        ("~ .", "a dot stands for no columns here, write their names"),
        ("~ site + age", "differ between rows, got 'site' with the one value 'here' in all"),
    ],
)
def test_bad_formulas_are_refused(formula, message):
    with pytest.raises(ValueError, match=message):
        pef.Design(formula, cells().assign(site="here"))


def test_levels_without_rows_have_no_coefficient():
    frame = cells()
    frame["batch"] = pd.Categorical(frame["batch"], list("abcd"))
    design = pef.Design("~ batch", frame)
    assert design.names == ["batch[T.b]", "batch[T.c]"]
    whole = design(frame)
    some = frame["batch"] == "b"
    pd.testing.assert_frame_equal(design(frame[some]), whole[some])
    frame["batch"] = frame["batch"].cat.add_categories("e")
    assert list(design(frame).columns) == design.names


def test_bad_frames_are_refused():
    design = pef.Design("~ batch + age", cells())
    new, hole = cells(), cells()
    new.loc[4, "batch"] = "z"
    hole.loc[7, "age"] = np.nan
    with pytest.raises(ValueError, match="without 'batch'"):
        design(cells()[["age"]])
    with pytest.raises(ValueError, match=r"levels of 'batch'.*'a', 'b', 'c', got 'z'"):
        design(new)
    with pytest.raises(ValueError, match="a value of 'age' in every row, got none in row 7"):
        design(hole)
    with pytest.raises(ValueError, match="a value of 'age' in every row"):
        pef.Design("~ age", hole)
    numbered = pef.Design("~ C(k)", pd.DataFrame({"k": [0, 1, 2]}))
    with pytest.raises(ValueError, match="levels that the design was made of"):
        numbered(pd.DataFrame({"k": [5]}))


def test_a_text_in_place_of_covariates_leads_to_the_formula():
    model = pef.ExpFamPCA(pef.families.Poisson(), 3, 1, num_covariates=1)
    with pytest.raises(TypeError, match=r"pyro_expfam\.Design"):
        pef.LaplaceGuide(model).fit(np.ones((5, 3)), covariates="~ age")
