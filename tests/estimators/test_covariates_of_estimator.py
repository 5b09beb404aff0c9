"""Covariates of the rows by way of the estimator and of AnnData."""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import pyro_expfam as pef
from pyro_expfam.formula import indicators

NUM_ROWS, NUM_FEATURES = 60, 5


def table():
    random = np.random.default_rng(1)
    x = pd.DataFrame({"age": random.normal(size=NUM_ROWS), "dose": random.normal(size=NUM_ROWS)})
    eta = random.normal(size=(NUM_ROWS, 1)) @ random.normal(size=(1, NUM_FEATURES)) / 2
    eta = eta + x.to_numpy() @ random.normal(size=(2, NUM_FEATURES)) / 2
    return random.poisson(np.exp(eta)).astype(float), x


def test_the_estimator_fits_what_the_guide_fits():
    y, x = table()
    pca = pef.ExponentialFamilyPCA(1).fit(y, covariates=x)
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, 1, num_covariates=2).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(y, covariates=x)
    expected = guide.covariate_coefficients.numpy()
    np.testing.assert_allclose(pca.coefficients_, expected, atol=1e-3)
    evidence = guide.log_evidence(y, covariates=x).mean().item()
    assert pca.score(y, covariates=x) == pytest.approx(evidence, abs=1e-4)


def test_every_method_takes_covariates():
    y, x = table()
    pca = pef.ExponentialFamilyPCA(1, random_state=0)
    scores = pca.fit_transform(y, covariates=x)
    np.testing.assert_allclose(pca.transform(y, covariates=x), scores)
    means = pca.inverse_transform(scores, covariates=x)
    eta = scores @ pca.components_ + pca.intercept_ + x.to_numpy() @ pca.coefficients_.T
    np.testing.assert_allclose(means, np.exp(eta), rtol=1e-6)
    assert pca.sample(NUM_ROWS, covariates=x).shape == y.shape
    y[3, 1] = np.nan
    assert np.isfinite(pca.impute(y, covariates=x)).all()
    pca.partial_fit(np.nan_to_num(y), covariates=x)
    assert pca.n_samples_seen_ == 2 * NUM_ROWS


def test_covariates_that_do_not_fit_are_refused():
    y, x = table()
    pca = pef.ExponentialFamilyPCA(1).fit(y, covariates=x)
    with pytest.raises(ValueError, match=r"covariates must be numbers.*got None"):
        pca.transform(y)
    with pytest.raises(ValueError, match="in the order that the guide was trained on, got 'dose'"):
        pca.transform(y, covariates=x[["dose", "age"]])
    with pytest.raises(ValueError, match="a row for each of the 60 rows"):
        pca.transform(y, covariates=x[:10])
    with pytest.raises(ValueError, match=r"covariates must have shape \(N, p\)"):
        pef.ExponentialFamilyPCA(1).fit(y, covariates=x["age"])
    frame = pd.DataFrame(y, index=[f"r{k}" for k in range(NUM_ROWS)])
    with pytest.raises(ValueError, match="the rows of y in the same order"):
        pca.transform(frame, covariates=x)
    with pytest.raises(ValueError, match=r"num_covariates, the number of them$"):
        clone(pca).fit(y).transform(y, covariates=x)


def test_a_pipeline_routes_covariates():
    y, x = table()
    with sklearn.config_context(enable_metadata_routing=True):
        pca = pef.ExponentialFamilyPCA(1).set_fit_request(covariates=True)
        pipeline = make_pipeline(FunctionTransformer(), pca.set_transform_request(covariates=True))
        found = pipeline.fit(y, covariates=x).transform(y, covariates=x)
    np.testing.assert_allclose(found, pipeline[-1].transform(y, covariates=x))


def test_anndata_takes_covariates_from_the_observations():
    anndata = pytest.importorskip("anndata")
    y, x = table()
    obs = x.assign(batch=np.where(np.arange(NUM_ROWS) % 2, "one", "two"))
    obs.index = obs.index.astype(str)
    cells = anndata.AnnData(y, obs=obs)
    estimator = pef.fit_anndata(cells, covariates=["batch", "age"], size_factors="total")
    found = cells.varm["expfam_coefficients"]
    assert list(found.columns) == ["batch[T.two]", "age"]
    np.testing.assert_allclose(found, estimator.coefficients_)
    assert cells.uns["expfam"]["covariates"] == ["batch[T.two]", "age"]
    report = cells.uns["expfam"]["report"]
    assert "size factors, from total counts, are the offset" in report
    assert "beyond covariates. " in report
    assert "Covariates with coefficients per gene: batch[T.two], age." in report
    with pytest.raises(ValueError, match=r"columns of adata.obs, got \['sex'\]"):
        pef.fit_anndata(cells, covariates=["sex"])
    cells.obs.loc["3", "age"] = np.nan
    with pytest.raises(ValueError, match=r"missing ones in \['age'\]"):
        pef.fit_anndata(cells, covariates=["age"])


def frame_of_cells():
    random = np.random.default_rng(0)
    batch = np.array(["a", "b", "c"])[np.arange(60) % 3]
    cells = pd.DataFrame({"batch": batch, "age": random.normal(40, 10, 60)})
    rate = np.exp(0.5 * (cells["batch"] == "b").to_numpy()[:, None] + np.zeros(4))
    return cells, random.poisson(rate)


def test_a_formula_makes_the_design_of_the_fit_and_of_new_rows():
    pytest.importorskip("formulaic")
    cells, y = frame_of_cells()
    formula = "~ batch + scale(age)"
    pca = pef.ExponentialFamilyPCA(1, "poisson", formula=formula).fit(y, covariates=cells)
    design = pef.Design(formula, cells)
    plain = pef.ExponentialFamilyPCA(1, "poisson").fit(y, covariates=design(cells))
    np.testing.assert_array_equal(pca.coefficients_, plain.coefficients_)
    assert pca.design_.names == design.names
    few = cells[3:5]
    scores = pca.transform(y[3:5], covariates=few)
    np.testing.assert_array_equal(scores, plain.transform(y[3:5], covariates=design(few)))
    as_a = few.assign(batch="a")
    np.testing.assert_array_equal(
        pca.inverse_transform(scores, covariates=as_a),
        plain.inverse_transform(scores, covariates=design(as_a)),
    )
    assert pca.sample(2, covariates=few).shape == (2, 4)
    with pytest.raises(ValueError, match="got 'd': a level without rows"):
        pca.transform(y[:1], covariates=cells[:1].assign(batch="d"))
    with pytest.raises(ValueError, match="data frame with the columns of the formula"):
        pca.transform(y[:1])
    copy = clone(pca)
    assert copy.formula == formula
    assert not hasattr(copy, "design_")


def test_a_formula_that_determines_itself_is_named():
    pytest.importorskip("formulaic")
    cells, y = frame_of_cells()
    pca = pef.ExponentialFamilyPCA(1, "poisson", formula="~ 0 + batch")
    words = r"'batch\[c\]' is a linear combination of the intercept, 'batch\[a\]' and 'batch\[b\]'"
    with pytest.warns(UserWarning, match=words):
        pca.fit(y, covariates=cells)
    flat = pca.set_params(coefficient_scale=None, intercept_scale=None)
    with pytest.raises(ValueError, match=words):
        flat.fit(y, covariates=cells)


def test_a_formula_in_place_of_covariates_says_what_to_write():
    _, y = frame_of_cells()
    words = r"ExponentialFamilyPCA\(formula='~ batch'\).fit\(X, covariates=frame\)"
    with pytest.raises(TypeError, match=words):
        pef.ExponentialFamilyPCA(1, "poisson").fit(y, covariates="~ batch")
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 1, num_covariates=1)
    with pytest.raises(TypeError, match=r"covariates=pyro_expfam.Design\('~ batch', frame\)"):
        pef.LaplaceGuide(model).fit(torch.as_tensor(y).float(), covariates="~ batch")


def test_covariates_of_anndata_are_coded_as_by_a_formula():
    pytest.importorskip("formulaic")
    random = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(random.choice(list("cab"), 40), ["c", "b", "a"]),
            "sex": random.choice(["f", "m"], 40),
            "treated": random.random(40) < 0.5,
            "age": random.integers(20, 80, 40),
        }
    )
    by_formula = pef.Design("~ batch + sex + treated + age", obs)(obs)
    pd.testing.assert_frame_equal(indicators(obs), by_formula)
    more = obs.assign(batch=obs["batch"].cat.add_categories("unused"))
    pd.testing.assert_frame_equal(indicators(more), by_formula)


def test_few_whole_numbers_are_no_covariate_without_a_word():
    obs = pd.DataFrame({"batch": np.arange(40) % 3 + 1, "dose": np.arange(40) % 3 * 1.0})
    with pytest.raises(ValueError, match=r"the 3 whole numbers 1, 2, 3 in 'batch'.*category"):
        indicators(obs)
    levels = indicators(obs.assign(batch=obs["batch"].astype("category")))
    assert list(levels.columns) == ["batch[T.2]", "batch[T.3]", "dose"]
    assert list(indicators(obs.astype(float)).columns) == ["batch", "dose"]


def test_a_formula_warns_of_a_slope_of_few_whole_numbers():
    pytest.importorskip("formulaic")
    obs = pd.DataFrame({"batch": np.arange(40) % 3 + 1})
    with pytest.warns(UserWarning, match=r"'batch' holds the 3 whole numbers 1, 2, 3.*C\(batch\)"):
        pef.Design("~ batch", obs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pef.Design("~ C(batch)", obs).num_covariates == 2
        assert pef.Design("~ batch", obs.astype(float)).num_covariates == 1
