"""The estimator: scikit-learn's own checks, its relatives, and its place in scikit-learn."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_expfam as pef
from pyro_expfam.estimators import choose_family

F = pef.families
FLAT = {"loading_scale": None, "intercept_scale": None}


@parametrize_with_checks([pef.ExponentialFamilyPCA()])
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


def counts(num_rows=120, num_columns=6, seed=0):
    random = np.random.default_rng(seed)
    loading = random.normal(size=(2, num_columns)) / 2
    return random.poisson(np.exp(random.normal(size=(num_rows, 2)) @ loading + 1)).astype(float)


def signs(ours, theirs):
    return np.sign((ours * theirs).sum(1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_components_of_real_numbers_are_principal_components(count):
    X = load_iris().data
    ours = pef.ExponentialFamilyPCA(count, "gaussian", **FLAT).fit(X)
    theirs = PCA(count).fit(X)
    sign = signs(ours.components_, theirs.components_)
    np.testing.assert_allclose(sign[:, None] * ours.components_, theirs.components_, atol=1e-5)
    # Scores are shrunk towards the mean by the part of noise in the variance along a component.
    noise, variance = ours.family_.scale.item() ** 2, theirs.explained_variance_
    variance = variance * (len(X) - 1) / len(X)
    shrunk = theirs.transform(X) * (variance - noise) / variance
    np.testing.assert_allclose(ours.transform(X) * sign, shrunk, atol=1e-4)
    left = (len(X) - 1) / len(X) * (X.var(0, ddof=1).sum() - theirs.explained_variance_.sum())
    assert noise == pytest.approx(left / (4 - count), rel=1e-4)


def test_known_noise_gives_the_closed_form_of_probabilistic_components():
    # Tipping and Bishop (1999): the variances of components are the eigenvalues less the noise.
    X, noise = load_iris().data, 0.3
    ours = pef.ExponentialFamilyPCA(2, F.Gaussian(noise), **FLAT).fit(X)
    theirs = PCA(2).fit(X)
    sign = signs(ours.components_, theirs.components_)
    variance = theirs.explained_variance_ * (len(X) - 1) / len(X)
    np.testing.assert_allclose(1 / ours.latent_precision_, variance - noise**2, rtol=1e-3)
    shrunk = theirs.transform(X) * (variance - noise**2) / variance
    np.testing.assert_allclose(ours.transform(X) * sign, shrunk, atol=1e-3)
    expected = theirs.inverse_transform(shrunk)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(X)), expected, atol=1e-3)


def test_a_scale_per_column_is_factor_analysis():
    X = load_wine().data
    X = (X - X.mean(0)) / X.std(0)
    ours = pef.ExponentialFamilyPCA(2, F.Gaussian("per column"), **FLAT).fit(X)
    theirs = FactorAnalysis(2, tol=1e-9, max_iter=20_000, svd_method="lapack").fit(X)
    covariance = (ours.components_.T / ours.latent_precision_) @ ours.components_
    expected = theirs.components_.T @ theirs.components_
    np.testing.assert_allclose(covariance, expected, atol=2e-3)
    np.testing.assert_allclose(ours.family_.scale.numpy() ** 2, theirs.noise_variance_, atol=2e-3)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-5)


def test_little_noise_is_found_by_default():
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 1)) @ np.ones((1, 6)) + 0.01 * random.normal(size=(400, 6))
    found = pef.ExponentialFamilyPCA(1, "gaussian").fit(X)
    assert float(found.family_.scale) == pytest.approx(0.01, rel=0.05)
    assert found.score(X) == pytest.approx(PCA(1).fit(X).score(X), abs=1e-3)


def test_the_basis_is_orthonormal_ordered_and_signed():
    X = counts()
    found = pef.ExponentialFamilyPCA(3, "poisson").fit(X)
    np.testing.assert_allclose(found.components_ @ found.components_.T, np.eye(3), atol=1e-9)
    ratio = found.explained_deviance_ratio_
    assert list(ratio) == sorted(ratio, reverse=True)
    assert (
        np.take_along_axis(found.components_, np.abs(found.components_).argmax(1)[:, None], 1) > 0
    ).all()


def test_scores_and_their_covariance_are_those_of_the_guide():
    X = counts()
    found = pef.ExponentialFamilyPCA(2, "poisson").fit(X)
    scores, covariance = found.transform(X, return_cov=True)
    z = found.guide_.posterior(X)
    np.testing.assert_allclose(
        scores @ found.components_, (z.mean @ found.guide_.loading.T).detach(), atol=1e-9
    )
    eta = found.components_.T @ covariance @ found.components_
    expected = found.guide_.loading @ z.covariance_matrix.detach() @ found.guide_.loading.T
    np.testing.assert_allclose(eta, expected, atol=1e-9)
    np.testing.assert_allclose(found.score_samples(X), found.guide_.log_evidence(X).detach())
    assert found.score(X) == pytest.approx(found.score_samples(X).mean())


def test_new_rows_have_the_law_of_the_model():
    X = counts(400)
    found = pef.ExponentialFamilyPCA(2, "poisson", random_state=0).fit(X)
    drawn = found.sample(20_000)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), rtol=0.15)
    np.testing.assert_array_equal(drawn, found.sample(20_000))
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(X.T), atol=0.15)


def test_missing_entries_take_no_part():
    X = counts()
    holes, mask = X.copy(), np.random.default_rng(1).random(X.shape) < 0.8
    holes[~mask] = np.nan
    by_nan = pef.ExponentialFamilyPCA(2, "poisson", random_state=0).fit(holes)
    by_mask = pef.ExponentialFamilyPCA(2, "poisson", random_state=0).fit(X, mask=mask)
    np.testing.assert_allclose(by_nan.components_, by_mask.components_, atol=1e-9)
    np.testing.assert_allclose(by_nan.transform(holes), by_mask.transform(X, mask=mask), atol=1e-9)
    with pytest.raises(ValueError, match="NaN"):
        pef.ExponentialFamilyPCA(2, "poisson", missing=None).fit(holes)


def test_offsets_and_weights_reach_the_model():
    X, random = counts(), np.random.default_rng(2)
    offset, weights = random.normal(size=(len(X), 1)), random.random(X.shape) + 0.5
    found = pef.ExponentialFamilyPCA(2, "poisson").fit(X, offset=offset, weights=weights)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), 6, 2).double())
    guide.fit(X, offset, weights=weights)
    expected = guide.log_evidence(X, offset, weights=weights).detach()
    np.testing.assert_allclose(found.score_samples(X, offset, weights=weights), expected, atol=1e-3)


def test_frames_give_and_get_names():
    frame = pd.DataFrame(counts(), columns=list("abcdef"))
    found = pef.ExponentialFamilyPCA(2, "poisson").set_output(transform="pandas").fit(frame)
    scores = found.transform(frame)
    assert list(scores.columns) == ["exponentialfamilypca0", "exponentialfamilypca1"]
    assert list(scores.index) == list(frame.index)
    assert list(found.feature_names_in_) == list("abcdef")
    idata = found.to_arviz(frame, num_samples=5)
    assert list(idata.posterior["feature"].values) == list("abcdef")
    with pytest.raises(ValueError, match="feature names should match"):
        found.transform(frame[list("fedcba")])


def test_it_works_inside_of_pipelines_searches_and_processes():
    X, y = load_iris(return_X_y=True)
    random = np.random.default_rng(0)
    wide = random.normal(size=(150, 2)) @ random.normal(size=(2, 6)) * 3
    wide += random.normal(size=wide.shape)
    bits = (X.mean(0) < X).astype(float)
    table = np.hstack([X, bits])
    parts = ColumnTransformer(
        [
            ("reals", pef.ExponentialFamilyPCA(1, "gaussian"), slice(0, 4)),
            ("bits", pef.ExponentialFamilyPCA(1, "bernoulli"), slice(4, 8)),
        ]
    )
    assert make_pipeline(parts, LogisticRegression()).fit(table, y).score(table, y) > 0.8
    search = GridSearchCV(pef.ExponentialFamilyPCA(1, "gaussian"), {"n_components": [1, 2]}, cv=3)
    assert search.fit(wide).best_params_ == {"n_components": 2}
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()
    found = Parallel(2, "threading")(
        delayed(pef.ExponentialFamilyPCA(1, "gaussian", random_state=0).fit_transform)(X)
        for _ in range(2)
    )
    np.testing.assert_allclose(found[0], found[1])


def test_metadata_is_routed():
    X = counts()
    offset = np.random.default_rng(3).normal(size=(len(X), 1))
    with sklearn.config_context(enable_metadata_routing=True):
        pca = pef.ExponentialFamilyPCA(2, "poisson")
        pca.set_fit_request(offset=True).set_transform_request(offset=True)
        routed = make_pipeline(pca).fit(X, offset=offset).transform(X, offset=offset)
    direct = pef.ExponentialFamilyPCA(2, "poisson").fit(X, offset=offset).transform(X, offset)
    np.testing.assert_allclose(routed, direct)


def test_a_fitted_estimator_is_pickled():
    X = counts()
    found = pef.ExponentialFamilyPCA(2, "poisson").fit(X)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.transform(X), found.transform(X))


@pytest.mark.slow
def test_batches_lead_towards_the_fit_of_the_whole_table():
    X = counts(1200, 8)
    whole = pef.ExponentialFamilyPCA(2, "poisson").fit(X).score(X)
    found = pef.ExponentialFamilyPCA(2, "poisson").partial_fit(X[:100])
    first = found.score(X)
    for _ in range(3):
        for start in range(0, 1200, 200):
            found.partial_fit(X[start : start + 200])
    assert found.n_samples_seen_ == 100 + 3 * 1200
    assert whole - found.score(X) < 0.3 * (whole - first)


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ([[0, 1], [1, np.nan]], F.Bernoulli()),
        ([[0, 1], [1, 3]], F.Poisson()),
        ([[0, 1], [0, 900], [0, 2], [5, 0]], F.NegativeBinomial()),
        ([[0.0, -1.0], [1.0, 3.0]], F.Gaussian()),
        ([[0.5, 1.0], [1.0, 3.0]], F.Gaussian()),
    ],
)
def test_the_family_follows_from_the_values(values, family):
    found, reason = choose_family(np.array(values, dtype=float))
    assert found == family
    assert reason


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.arange(40) + 7, "got the numbers of the rows in column 1: leave it out"),
        (np.arange(40) * 977 + 10**9, r"got a mean of 1e\+09 in column 1 and of 2"),
    ],
)
def test_names_of_rows_are_not_taken_for_counts(column, message):
    counts = np.random.default_rng(0).poisson(2.0, (40, 5))
    counts[:, 1] = column
    with pytest.raises(ValueError, match=message):
        choose_family(counts.astype(float))
    with pytest.raises(ValueError, match=message.replace("column 1", "column 'b'")):
        pef.ExponentialFamilyPCA().fit(pd.DataFrame(counts, columns=list("abcde")))


def test_all_columns_that_may_name_the_rows_are_named_at_once():
    counts = np.random.default_rng(0).poisson(2.0, (40, 5))
    counts[:, 1], counts[:, 3] = np.arange(40) + 7, np.arange(40) * 977 + 10**9
    counts[:, 4] = np.arange(40)
    with pytest.raises(ValueError, match=r"rows in column 'b': .*column 'e': .* in column 'd' and"):
        pef.ExponentialFamilyPCA().fit(pd.DataFrame(counts, columns=list("abcde")))


def test_money_in_cents_is_not_taken_for_counts():
    cents = np.random.default_rng(0).integers(10**8, 10**9, (30, 4)).astype(float)
    with pytest.raises(ValueError, match="'log_normal', if they are amounts, such as money"):
        choose_family(cents)
    assert pef.ExponentialFamilyPCA(family="log_normal").fit(cents).family_.kind == "log_normal"


def test_the_reason_for_the_family_is_told():
    found = pef.ExponentialFamilyPCA(1).fit((counts() > 2).astype(float))
    assert found.family_ == F.Bernoulli()
    assert found.family_reason_ == "all entries are 0 or 1"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
        ({"n_components": 1.5}, TypeError, r"n_components must be a whole number, got 1\.5"),
        ({"n_components": 9}, ValueError, r"at most the number of features, got 9 .* 6 feature"),
        ({"family": "poison"}, ValueError, "family must be 'auto'.*'poisson'.*got 'poison'"),
        ({"missing": "none"}, ValueError, "missing must be 'nan' or None, got 'none'"),
        ({"latent_precision": -1.0}, ValueError, "latent_precision must be a positive"),
    ],
)
def test_bad_parameters_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        pef.ExponentialFamilyPCA(**settings).fit(counts())


def test_an_unfitted_estimator_says_so():
    with pytest.raises(NotFittedError):
        pef.ExponentialFamilyPCA().transform(counts())


def test_scores_of_another_number_of_components_are_refused():
    found = pef.ExponentialFamilyPCA(2, "poisson").fit(counts())
    with pytest.raises(ValueError, match=r"X must be scores \(N, 2\), got shape \(3, 5\)"):
        found.inverse_transform(np.zeros((3, 5)))


def test_checks_of_a_fit_are_one_call_away():
    X = counts()
    found = pef.ExponentialFamilyPCA(1, "poisson").fit(torch.as_tensor(X))
    assert "Poisson table of 120 rows and 6 features" in str(found.check(X))


def test_scores_that_cannot_be_written_to_are_taken_without_a_warning():
    X = np.random.default_rng(0).poisson(2.0, (40, 4))
    pca = pef.ExponentialFamilyPCA(2, family="poisson", random_state=0).fit(X)
    scores = pca.transform(X)
    expected = pca.inverse_transform(scores)
    fixed = scores.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (fixed, pd.DataFrame(scores), scores.tolist()):
            np.testing.assert_allclose(pca.inverse_transform(same), expected)
