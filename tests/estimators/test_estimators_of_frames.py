"""Data frames of mixed columns, and sparse tables, through the estimator."""

import numpy as np
import pandas as pd
import pytest
import torch
from quick_cases import slow_unless
from scipy import sparse

import pyro_expfam as pef

F = pef.families
COLOURS, ANSWERS = ["red", "green", "blue"], ["no", "rather", "yes"]


def mixed(num_rows=120, seed=0):
    random = np.random.default_rng(seed)
    eta = random.normal(size=(num_rows, 2)) @ random.normal(size=(2, 5)) * 1.5
    noise = random.logistic(size=eta.shape)
    return pd.DataFrame(
        {
            "smoker": eta[:, 0] + noise[:, 0] > 0,
            "sex": pd.Categorical.from_codes((eta[:, 1] > noise[:, 1]).astype(int), ["f", "m"]),
            "colour": pd.Categorical.from_codes(
                np.digitize(eta[:, 2] + noise[:, 2], [-1, 1]), COLOURS
            ),
            "agrees": pd.Categorical.from_codes(
                np.digitize(eta[:, 3] + noise[:, 3], [-1, 1]), ANSWERS, ordered=True
            ),
            "visits": random.poisson(np.exp(eta[:, 4] / 3)),
        },
        index=[f"r{k}" for k in range(num_rows)],
    )


# Known cut points keep the fit quick.
LAWS = {
    "smoker": F.Bernoulli(),
    "sex": F.Bernoulli(),
    "colour": F.Categorical(3),
    "agrees": F.Ordinal(3, [-1.0, 1.0]),
    "visits": F.Poisson(),
}


@pytest.fixture(scope="module")
def found():
    return pef.ExponentialFamilyPCA(2, F.Columns(LAWS), random_state=0).fit(mixed())


def test_a_frame_is_the_mixed_table_of_its_guide(found):
    frame = mixed()
    assert list(found.feature_names_in_) == list(frame)
    # A category has a linear predictor for each level.
    assert found.components_.shape == (2, 7)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Columns(LAWS), latent_dim=2).double())
    guide.fit(frame, progress=False)
    expected = guide.log_evidence(frame).detach()
    np.testing.assert_allclose(found.score_samples(frame), expected, atol=2e-3)


def test_scores_are_a_frame_with_the_labels_of_the_rows(found):
    frame = mixed()
    scores = found.set_output(transform="pandas").transform(frame)
    assert list(scores.index) == list(frame.index)
    found.set_output(transform="default")
    np.testing.assert_array_equal(scores.to_numpy(), found.transform(frame))


def test_the_family_of_a_mixed_frame_is_chosen_by_column():
    frame = mixed(60).drop(columns="agrees")
    found = pef.ExponentialFamilyPCA(1, random_state=0).fit(frame)
    laws = {name: law for name, law in LAWS.items() if name != "agrees"}
    assert found.family_ == F.Columns(laws)
    lines = found.family_reason_.splitlines()
    assert [line.split()[0] for line in lines] == list(frame)
    assert "3 categories without an order" in lines[2]


def test_a_frame_of_one_kind_is_a_table_of_one_family():
    counts = pd.DataFrame(np.random.default_rng(0).poisson(2.0, (40, 4)), columns=list("abcd"))
    assert pef.ExponentialFamilyPCA(1).fit(counts).family_ == F.Poisson()


def test_columns_in_another_order_take_the_laws_of_their_names(found):
    frame = mixed()[list(LAWS)[::-1]]
    other = pef.ExponentialFamilyPCA(2, F.Columns(LAWS), random_state=0).fit(frame)
    assert list(other.family_.names) == list(LAWS)[::-1]
    np.testing.assert_allclose(other.score(frame), found.score(mixed()), atol=2e-3)


def test_missing_values_of_pandas_are_missing_entries(found):
    frame, mask = mixed(), np.random.default_rng(1).random((120, 5)) < 0.8
    holes = frame.astype({"smoker": "boolean", "visits": "Int64"}).where(mask)
    np.testing.assert_allclose(found.transform(holes), found.transform(frame, mask=mask), atol=1e-9)


def test_imputation_keeps_what_is_there_and_beats_the_margins(found):
    frame, mask = mixed(), np.random.default_rng(2).random((120, 5)) < 0.7
    holes = frame.astype({"smoker": "boolean", "visits": "Int64"}).where(mask)
    filled = found.impute(holes)
    assert list(filled.index) == list(frame.index)
    assert not filled.isna().any().any()
    assert list(filled["colour"].cat.categories) == COLOURS
    for place, name in enumerate(frame):
        there = mask[:, place]
        assert (filled.loc[there, name] == frame.loc[there, name]).all()
    gone = ~mask[:, 2]
    hits = (filled["colour"] == frame["colour"])[gone].mean()
    assert hits > frame["colour"].value_counts(normalize=True).max()
    truth = frame["visits"][~mask[:, 4]]
    error = ((filled["visits"][~mask[:, 4]] - truth) ** 2).mean()
    assert error < truth.var()


def test_imputation_of_arrays_is_the_expected_table():
    X = np.random.default_rng(0).poisson(2.0, (50, 5)).astype(float)
    found = pef.ExponentialFamilyPCA(1, "poisson").fit(X)
    holes = X.copy()
    holes[3, 2] = np.nan
    filled = found.impute(holes)
    expected = found.inverse_transform(found.transform(holes))
    # The mean over the posterior of the scores is near the mean at its mode.
    assert filled[3, 2] == pytest.approx(expected[3, 2], rel=0.2)
    np.testing.assert_array_equal(np.delete(filled, 3, 0), np.delete(X, 3, 0))


def test_draws_of_mixed_tables_have_the_numbers_of_categories(found):
    drawn = found.sample(500)
    assert drawn.shape == (500, 5)
    assert set(drawn[:, 2]) == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.drop(columns="sex"), ValueError, "missing:\n- sex"),
        (lambda x: x.assign(more=1.0), ValueError, "unseen at fit time:\n- more"),
        (lambda x: x[list(x)[::-1]], ValueError, "same order"),
        (
            lambda x: x.assign(colour=pd.Categorical(["pink"] * len(x))),
            ValueError,
            r"column 'colour' of X must hold the categories \['red', .* got the new \['pink'\]",
        ),
        (lambda x: x.assign(colour=1.0), ValueError, "column 'colour' .* as in the fit, got dtype"),
        (
            lambda x: x.assign(visits="two"),
            TypeError,
            r"in all columns; column 'visits' holds texts \(1 different, such as 'two'\)",
        ),
    ],
)
def test_frames_that_differ_from_the_fit_are_refused(found, change, error, message):
    with pytest.raises(error, match=message):
        found.transform(change(mixed()))


def test_fewer_categories_in_another_order_are_understood(found):
    frame = mixed()
    rows = frame[frame["colour"].isin(["blue", "red"])]
    other = rows.assign(colour=rows["colour"].cat.set_categories(["blue", "red"]))
    np.testing.assert_array_equal(found.transform(other), found.transform(rows))


def counts(num_rows=80, num_columns=10):
    random = np.random.default_rng(0)
    loading = random.normal(size=(2, num_columns)) / 2
    return random.poisson(np.exp(random.normal(size=(num_rows, 2)) @ loading - 1)).astype(float)


@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_array,
        lambda X: sparse.csr_array(X.astype(int)),
        lambda X: torch.as_tensor(X).to_sparse_csr(),
    ],
)
def test_a_sparse_table_is_the_dense_one(form):
    X = counts()
    offset = np.log(X.sum(1, keepdims=True) + 1)
    dense = pef.ExponentialFamilyPCA(2, random_state=0).fit(X, offset=offset)
    found = pef.ExponentialFamilyPCA(2, random_state=0).fit(form(X), offset=offset)
    assert found.family_ == dense.family_ == F.Poisson()
    np.testing.assert_allclose(
        dense.transform(form(X), offset), dense.transform(X, offset), atol=1e-7
    )
    np.testing.assert_allclose(found.score(form(X), offset=offset), dense.score(X, offset=offset))
    np.testing.assert_allclose(
        found.explained_deviance_ratio_, dense.explained_deviance_ratio_, atol=1e-4
    )


def test_a_stored_nan_is_refused():
    X = sparse.csr_matrix(counts())
    X.data[3] = np.nan
    with pytest.raises(ValueError, match="y must store finite numbers, got nan"):
        pef.ExponentialFamilyPCA(1, "poisson").fit(X)


def test_a_sparse_table_is_made_dense_for_a_report_unless_it_is_large(monkeypatch):
    X = counts()
    found = pef.ExponentialFamilyPCA(1, "poisson", random_state=0).fit(sparse.csr_matrix(X))
    module = "pyro_expfam.estimators.exponential_family_pca"
    monkeypatch.setattr(f"{module}.check", lambda model, guide, y, *entries: y)
    np.testing.assert_array_equal(found.check(sparse.csr_matrix(X)), X)
    assert found.to_arviz(sparse.csr_matrix(X), num_samples=2).posterior.sizes["draw"] == 2
    monkeypatch.setattr("pyro_expfam.estimators.sparse_tables.MOST_ENTRIES", 100)
    with pytest.raises(ValueError, match=r"at most 100 entries for to_arviz.*a sample of its rows"):
        found.to_arviz(sparse.csr_matrix(X))


RATINGS = {
    "numbers": lambda y: pd.Categorical(y + 1, [1, 2, 3, 4], ordered=True),
    "intervals": lambda y: pd.cut(y, [-0.5, 0.5, 1.5, 2.5, 3.5]),
    "dates": lambda y: pd.Categorical(
        pd.to_datetime("2020-01-01") + pd.to_timedelta(y, unit="D"),
        pd.date_range("2020-01-01", periods=4),
        ordered=True,
    ),
}


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind == "intervals", RATINGS))
def test_categories_that_are_no_texts_are_those_of_the_fit_in_later_calls(kind):
    random = np.random.default_rng(0)
    latents = random.normal(size=(150, 1))
    codes = np.digitize(latents + random.logistic(size=(150, 5)), [-1.5, 0.0, 1.0])
    codes[:4] = np.arange(4)[:, None]
    frame = pd.DataFrame({f"q{k}": RATINGS[kind](codes[:, k]) for k in range(5)})
    pca = pef.ExponentialFamilyPCA(1, family=pef.families.Ordinal(4), random_state=0).fit(frame)
    plain = pef.ExponentialFamilyPCA(1, family=pef.families.Ordinal(4), random_state=0)
    plain.fit(codes.astype(float))
    np.testing.assert_allclose(pca.transform(frame), plain.transform(codes), atol=1e-4)
    assert pca.score(frame) == pytest.approx(plain.score(codes), abs=1e-5)
    holes = frame.mask(random.random(frame.shape) < 0.2)
    filled = pca.impute(holes)
    assert not filled.isna().any().any()
    assert (filled.dtypes == frame.dtypes).all()
    assert ((filled == frame) | holes.isna()).all().all()


def test_categories_are_refused_where_the_fit_had_numbers():
    numbers = pd.DataFrame(np.random.default_rng(0).integers(1, 6, (50, 3)), columns=list("abc"))
    pca = pef.ExponentialFamilyPCA(1, random_state=0).fit(numbers)
    other = numbers.assign(b=pd.Categorical(numbers["b"], ordered=True))
    with pytest.raises(ValueError, match="column 'b' of X must hold numbers, as in the fit, got"):
        pca.transform(other)
