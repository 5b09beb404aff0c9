"""With missing="nan", NaN, None and pandas.NA are missing entries, in every entrance alike."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from quick_cases import slow_unless

import pyro_expfam as pef

F = pef.families
MIXED = F.Columns(
    {
        "visits": F.Poisson(),
        "smoker": F.Bernoulli(),
        "height": F.Gaussian(1.0),
        "colour": F.Categorical(3),
        "grade": F.Ordinal(3, [-1.0, 1.0]),
    }
)


def table(family, num_features=4, num_rows=40):
    """A table, and which of its entries are there."""
    torch.manual_seed(2)
    eta = torch.randn(num_rows, family.num_predictors(num_features), dtype=torch.float64)
    y = family.decode(family.sample(0.5 * eta))
    present = torch.rand(num_rows, num_features) < 0.75
    present[3] = False
    return y.double(), present


def fitted(family, y, missing, **entries):
    torch.manual_seed(0)
    pyro.clear_param_store()
    model = pef.ExpFamPCA(family, 4, 1, missing=missing).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(y, **entries, progress=False)
    return guide


FAMILIES = [
    F.Bernoulli(),
    F.Binomial(3),
    F.ContinuousBernoulli(),
    F.Gaussian(0.7),
    F.Gamma(2.0),
    F.NegativeBinomial(2.0),
    F.Poisson(),
    F.Tweedie(1.5, 0.7),
    F.Ordinal(3, [-1.0, 1.0]),
    F.Categorical(3),
]
QUICK = (FAMILIES[0], FAMILIES[3], *FAMILIES[-3:])
"""One of each kind of kernel, and one without."""


@pytest.mark.parametrize("family", slow_unless(QUICK.__contains__, FAMILIES), ids=str)
def test_nan_is_what_a_mask_marks(family):
    y, present = table(family)
    y[~present] = -torch.inf
    by_mask = fitted(family, y, None, mask=present)
    y[~present] = torch.nan
    guide = fitted(family, y, "nan")
    torch.testing.assert_close(guide.loading, by_mask.loading, rtol=0, atol=0)
    torch.testing.assert_close(guide.latents(y), by_mask.latents(y, mask=present), rtol=0, atol=0)
    torch.testing.assert_close(
        guide.posterior(y).variance, by_mask.posterior(y, mask=present).variance, rtol=0, atol=0
    )
    torch.testing.assert_close(
        guide.log_evidence(y), by_mask.log_evidence(y, mask=present), rtol=0, atol=0
    )


def test_a_mask_and_nan_both_count():
    y, present = table(F.Poisson())
    mask = torch.rand(4) < 0.7
    mask[0] = False
    y = y.where(present, torch.nan)
    both = fitted(F.Poisson(), y, "nan", mask=mask)
    expected = fitted(F.Poisson(), y, None, mask=mask & present)
    assert torch.equal(both.loading, expected.loading)


def test_loaders_and_svi_read_nan_as_missing():
    y, present = table(F.Poisson())
    holes = y.where(present, torch.nan)
    expected = fitted(F.Poisson(), y, None, mask=present)
    batches = [holes[:15], holes[15:]]
    torch.testing.assert_close(fitted(F.Poisson(), batches, "nan").loading, expected.loading)

    def losses(missing, *arguments):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model = pef.ExpFamPCA(F.Poisson(), 4, 1, missing=missing).double()
        svi = SVI(model, pef.DEQMAPGuide(model), Adam({"lr": 0.1}), Trace_ELBO())
        return [svi.step(*arguments) for _ in range(3)]

    assert losses("nan", holes) == losses(None, y, None, present)


def test_everything_that_reads_a_fit_takes_the_same_table():
    y, present = table(F.Poisson())
    holes = y.where(present, torch.nan)
    pyro.clear_param_store()
    model = pef.ExpFamPCA(F.Poisson(), 4, 1, missing="nan").double()
    guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
    guide.fit(holes, progress=False)
    assert pef.deviance_explained(guide, holes) == pef.deviance_explained(guide, y, mask=present)
    torch.manual_seed(0)
    report = str(pef.check(model, guide, holes))
    torch.manual_seed(0)
    assert report == str(pef.check(model, guide, y, mask=present))
    idata = pef.to_arviz(model, guide, holes, num_samples=5)
    assert np.array_equal(idata["observed_data"]["y"].isnull(), ~present.numpy())
    assert "predictions" in idata
    encoded = pef.DEQEncoder(guide)(holes)
    torch.testing.assert_close(encoded, pef.DEQEncoder(guide)(y, mask=present))


@pytest.mark.slow
def test_comparisons_take_the_same_table():
    y, present = table(F.Poisson())
    holes = y.where(present, torch.nan)
    expected = pef.compare_latent_dims(F.Poisson(), y, [1], mask=present, num_folds=2)
    found = pef.compare_latent_dims(F.Poisson(), holes, [1], num_folds=2, missing="nan")
    assert found.rows[0].held_out == expected.rows[0].held_out
    families = {"Poisson": F.Poisson()}
    by_mask = pef.compare(families, y, [1], mask=present, num_folds=2)
    by_nan = pef.compare(families, holes, [1], num_folds=2, missing="nan")
    assert by_nan.rows[0].held_out == by_mask.rows[0].held_out


def frame():
    """A frame with every kind of column, and one with holes of every kind."""
    random = np.random.default_rng(1)
    whole = pd.DataFrame(
        {
            "visits": random.poisson(3, 40),
            "smoker": random.random(40) < 0.4,
            "height": random.normal(size=40),
            "colour": pd.Categorical(random.choice(["red", "green", "blue"], 40)),
            "grade": pd.Categorical(random.choice(["a", "b", "c"], 40), ordered=True),
        },
        index=[f"person {k}" for k in range(40)],
    )
    holes = whole.astype({"visits": "Int64", "smoker": "boolean", "height": "Float64"})
    for place in range(5):
        holes.iloc[random.choice(40, 8, replace=False), place] = pd.NA
    return whole, holes


def fitted_to_frame(y, missing, **entries):
    torch.manual_seed(0)
    pyro.clear_param_store()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(MIXED, latent_dim=1, missing=missing).double())
    guide.fit(y, **entries, progress=False)
    return guide


def test_nullable_columns_and_categories_have_missing_values():
    _, holes = frame()
    expected = fitted_to_frame(holes, None, mask=holes.notna())
    assert torch.equal(fitted_to_frame(holes, "nan").loading, expected.loading)
    objects = holes.astype({"visits": object, "smoker": object})
    objects = objects.where(holes.notna(), None)
    assert torch.equal(fitted_to_frame(objects, "nan").loading, expected.loading)
    with pytest.raises(ValueError, match="missing='nan' to the block"):
        fitted_to_frame(holes, None)


def test_infinity_is_never_missing():
    y, _ = table(F.Gaussian(1.0))
    y[1, 2] = -torch.inf
    with pytest.raises(ValueError, match=r"y must be finite.* got -inf at position \(1, 2\)"):
        fitted(F.Gaussian(1.0), y, "nan")


def test_masked_arrays_and_tables_of_xarray_serve():
    xarray = pytest.importorskip("xarray")
    y, present = table(F.Poisson())
    expected = fitted(F.Poisson(), y, None, mask=present)
    masked = np.ma.MaskedArray(y.numpy().astype(int), ~present.numpy())
    assert torch.equal(fitted(F.Poisson(), masked, "nan").loading, expected.loading)
    oaks = xarray.DataArray(
        y.where(present, torch.nan).numpy(), {"oak": list("abcd")}, ("tree", "oak")
    )
    guide = fitted(F.Poisson(), oaks, "nan")
    assert torch.equal(guide.loading, expected.loading)
    idata = pef.to_arviz(guide.model, guide, oaks, num_samples=3)
    assert idata["posterior"]["feature"].values.tolist() == list("abcd")
    with pytest.raises(ValueError, match="order that the guide was trained on"):
        guide.latents(oaks[:, ::-1])


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_frames_of_other_libraries_serve(kind):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    _, holes = frame()
    expected = fitted_to_frame(holes, None, mask=holes.notna())
    columns = {
        name: [None if pd.isna(value) else value for value in holes[name].tolist()]
        for name in reversed(holes.columns)
    }
    levels = {"colour": ["blue", "green", "red"], "grade": ["a", "b", "c"]}
    other = polars.DataFrame(columns).with_columns(
        polars.col(name).cast(polars.Enum(known)) for name, known in levels.items()
    )
    guide = fitted_to_frame(other if kind == "polars" else other.to_arrow(), "nan")
    assert torch.equal(guide.loading, expected.loading)


def test_a_saved_guide_still_knows_what_is_missing(tmp_path):
    y, present = table(F.Poisson())
    y = y.where(present, torch.nan)
    guide = fitted(F.Poisson(), y, "nan")
    guide.save(tmp_path / "fit.safetensors")
    loaded = pef.load(tmp_path / "fit.safetensors")
    assert torch.equal(loaded.latents(y), guide.latents(y))


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="missing must be 'nan' or None, got 'NA'"):
        pef.ExpFamPCA(F.Poisson(), 4, 1, missing="NA")
