"""Families of the columns of a data frame, by dtype and values."""

import numpy as np
import pandas as pd
import pytest

from pyro_expfam import families as F

random = np.random.default_rng(0)
N = 200


@pytest.mark.parametrize(
    ("column", "family"),
    [
        (random.random(N) < 0.3, F.Bernoulli()),
        (pd.array([True, None] * 50 + [False] * 100, dtype="boolean"), F.Bernoulli()),
        (random.integers(0, 2, N), F.Bernoulli()),
        (np.where(random.random(N) < 0.5, np.nan, random.integers(0, 2, N)), F.Bernoulli()),
        (pd.Categorical(["a", "b"] * 100), F.Bernoulli()),
        (pd.Categorical(["a", "b"] * 100, ordered=True), F.Bernoulli()),
        (pd.Categorical(["a", "b", "c", "a"] * 50), F.Categorical(3)),
        (pd.Categorical(["a", "b", "c", "a"] * 50, ordered=True), F.Ordinal(3)),
        (pd.Categorical([1, 2, 4, 2] * 50, ordered=True), F.Ordinal(3)),
        (random.poisson(2.0, N), F.Poisson()),
        (pd.array([3, None, 5, 0] * 50, dtype="Int64"), F.Poisson()),
        (random.poisson(random.gamma(0.5, 10.0, N)), F.NegativeBinomial()),
        (random.integers(1990, 2020, N), F.Gaussian()),
        (random.integers(-5, 5, N), F.Gaussian()),
        (random.integers(1, 8, N), F.Gaussian()),
        (random.integers(0, 8, N), F.Poisson()),
        (random.beta(1.0, 1.5, N), F.Beta()),
        (random.lognormal(size=N), F.Gaussian()),
    ],
)
def test_dtype_and_values_tell_the_family(column, family):
    found = F.Columns.from_frame(pd.DataFrame({"x": column, "y": random.normal(size=N)}))
    assert found.laws == {"x": family, "y": F.Gaussian()}


def test_the_choice_is_described_by_column():
    frame = pd.DataFrame({"bits": [0, 1, 1], "reals": [0.5, 7.0, -3.0]})
    lines = F.Columns.from_frame(frame).describe().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["bits", "Bernoulli()"],
        ["reals", "Gaussian(scale=None)"],
    ]
    assert "all are 0 or 1" in lines[0]
    # Without a choice there is no reason to tell.
    plain = F.Columns({"bits": F.Bernoulli()}).describe()
    assert plain.split() == ["bits", "Bernoulli()"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([f"n{k}" for k in range(30)], "'x' has another text in each row"),
        (
            ["a", "b"] * 15,
            r"'x' holds texts \(2 different, such as 'a'\): .*astype\(\"category\"\)",
        ),
        (pd.date_range("2020", periods=30), "'x' holds datetime64"),
        (["a", 1] * 15, r"'x' holds objects \(int, str\)"),
        ([True, None] * 15, "'x' holds true and false as objects"),
        ([2.0] * 30, "'x' is 2 in all rows: drop it"),
        (random.permutation(30) + 100, "'x' has the numbers of its rows"),
        ([np.nan] * 30, "'x' has no entry: drop it"),
        (pd.Categorical([1, 2, 3] * 10), "'x' has numbers for categories"),
        (pd.Categorical(["a"] * 30, ["a", "b"]), "'x' has 1 of its categories"),
        (pd.Categorical([f"n{k}" for k in range(30)]), "'x' has another category in each row"),
        (random.integers(10**9, 2 * 10**9, 30), "'x' has another whole number in each row, from 1"),
        (random.integers(10**9, 10**9 + 9, 30), "'x' has large whole numbers, from 10000000"),
        (
            np.repeat(random.integers(10**4, 10**7, 15), 2),
            r"'x' has large .* LogNormal\(\), if they",
        ),
        (
            random.gamma(2.0, 0.05, 30).clip(max=0.9),
            r"'x' has numbers from .* give Beta\(\) if they",
        ),
        (random.uniform(0.6, 0.99, 30), r"'x' has numbers from 0.* Gaussian\(\), or LogNormal"),
        (np.arange(30) / 29, r"'x' has numbers from 0 to 1: give ContinuousBernoulli\(\) if"),
    ],
)
def test_unclear_columns_are_refused_by_name_with_the_cure(column, message):
    frame = pd.DataFrame({"good": random.normal(size=30), "x": column})
    with pytest.raises(ValueError, match=f"^frame must .* column {message}"):
        F.Columns.from_frame(frame)


def test_all_unclear_columns_are_named_at_once():
    frame = pd.DataFrame({"when": pd.date_range("2020", periods=3), "who": ["a", "a", "b"]})
    with pytest.raises(ValueError, match=r"column 'when' .*; column 'who' "):
        F.Columns.from_frame(frame)


def test_what_is_unclear_of_several_columns_is_said_once():
    frame = pd.DataFrame({name: pd.Categorical([1, 2, 3] * 10) for name in "abc"})
    with pytest.raises(
        ValueError, match=r"column 'a' has numbers .* \(and so for 'b', 'c'\): order them"
    ) as error:
        F.Columns.from_frame(frame)
    assert str(error.value).count("has numbers for categories") == 1


def test_what_is_no_frame_is_refused():
    with pytest.raises(TypeError, match="frame must be a data frame of pandas, got ndarray"):
        F.Columns.from_frame(np.zeros((3, 2)))
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(ValueError, match="different names, got the repeated a"):
        F.Columns.from_frame(frame)


def test_laws_decide_what_is_refused_and_overrule_what_is_chosen():
    frame = pd.DataFrame(
        {
            "income": random.integers(10**4, 10**7, N),
            "share": random.gamma(2.0, 0.05, N).clip(max=0.9),
            "age": random.normal(size=N),
        }
    )
    with pytest.raises(ValueError, match=r"'income' .*; column 'share' .* Columns\.from_frame\("):
        F.Columns.from_frame(frame)
    known = {"share": F.Beta(), "income": F.LogNormal()}
    found = F.Columns.from_frame(frame, known)
    assert found.laws == {"income": F.LogNormal(), "share": F.Beta(), "age": F.Gaussian()}
    assert "as given" in found.describe().splitlines()[0]
    with pytest.raises(ValueError, match=r"laws must be of columns of the frame, got \['shares'\]"):
        F.Columns.from_frame(frame, {"shares": F.Beta()})


def test_amounts_below_1_are_seldom_taken_for_shares():
    amounts = [random.exponential(scale, size) for scale in (0.1, 0.2, 0.3) for size in [50] * 200]
    below = [column for column in amounts if column.max() < 1]
    shares = [random.beta(a, b, 100) for a, b in ((1, 1), (0.5, 1), (2, 2)) for _ in range(50)]

    def taken(columns):
        frame = pd.DataFrame({"other": random.normal(size=len(columns[0]))})
        found = []
        for column in columns:
            try:
                found.append(F.Columns.from_frame(frame.assign(x=column)).laws["x"] == F.Beta())
            except ValueError:
                found.append(False)
        return np.mean(found)

    assert len(below) > 200
    assert taken(below) < 0.04
    assert taken(shares) > 0.6


def test_wide_positive_numbers_have_a_hint():
    frame = pd.DataFrame({"x": np.exp(3 * random.normal(size=N)), "y": random.normal(size=N)})
    first, second = F.Columns.from_frame(frame).describe().splitlines()
    assert "see LogNormal()" in first
    assert "LogNormal" not in second


def test_a_frame_of_polars_is_read():
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = polars.DataFrame({"n": random.poisson(2.0, N), "x": random.normal(size=N)})
    assert F.Columns.from_frame(frame).laws == {"n": F.Poisson(), "x": F.Gaussian()}
