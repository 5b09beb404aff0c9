"""Missing entries from the rest of their rows: against closed forms, and by simulated coverage."""

import numpy as np
import pandas as pd
import pytest
import torch
from quick_cases import slow_unless

import pyro_expfam as pef

F = pef.families


def gaussian_table(num_rows=150, num_features=6):
    torch.manual_seed(0)
    W = torch.randn(num_features, 2, dtype=torch.float64)
    y = torch.randn(num_rows, 2).double() @ W.mT + 0.6 * torch.randn(num_rows, num_features)
    present = torch.rand(y.shape) < 0.75
    return y, present


def fitted(y, family, latent_dim=2, **settings):
    torch.manual_seed(1)
    guide_settings = {k: settings.pop(k) for k in ("globals", "mask") if k in settings}
    mask = guide_settings.pop("mask", None)
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, missing="nan", **settings).double()
    guide = pef.LaplaceGuide(model, **guide_settings)
    guide.fit(y, mask=mask, progress=False)
    return guide


def test_a_gaussian_table_has_the_conditional_normal_of_its_covariance():
    y, present = gaussian_table()
    holes = y.where(present, torch.nan)
    guide = fitted(holes, F.Gaussian(0.6))
    torch.manual_seed(2)
    found = pef.impute(guide, holes, num_draws=4_000)
    unit = guide.model.family.expected_y(torch.ones(1).double())
    b, scaled = unit * guide.intercept, unit * guide.loading
    covariance = scaled @ scaled.mT + 0.36 * torch.eye(6)
    for k in range(0, len(found.rows), 17):
        row, column = found.rows[k], found.columns[k]
        seen = present[row]
        gain = torch.linalg.solve(covariance[seen][:, seen], covariance[seen, column])
        mean = b[column] + gain @ (y[row] - b)[seen]
        variance = covariance[column, column] - gain @ covariance[seen, column]
        assert float(found.mean[k]) == pytest.approx(float(mean), abs=0.08)
        assert float(found.standard_deviation[k]) == pytest.approx(float(variance.sqrt()), rel=0.06)
        low, high = mean - 1.645 * variance.sqrt(), mean + 1.645 * variance.sqrt()
        assert float(found.lower[k]) == pytest.approx(float(low), abs=0.12)
        assert float(found.upper[k]) == pytest.approx(float(high), abs=0.12)


FAMILIES = {
    "counts": (F.Poisson(), {}),
    "real numbers": (F.Gaussian(1.0), {}),
    "bits of eight": (F.Binomial(8), {}),
    "positive numbers": (F.Gamma(3.0), {}),
}


@pytest.mark.parametrize(
    "name", slow_unless(lambda name: name in ("counts", "bits of eight"), FAMILIES)
)
def test_intervals_cover_what_was_removed(name):
    family, settings = FAMILIES[name]
    torch.manual_seed(3)
    z, W = torch.randn(400, 2).double(), 0.6 * torch.randn(15, 2).double()
    y = family.sample(1 + z @ W.mT).double()
    present = torch.rand(y.shape) < 0.7
    guide = fitted(y.where(present, torch.nan), family, globals="laplace", **settings)
    found = pef.impute(guide, y.where(present, torch.nan), num_draws=300)
    truth = y[~present]
    # Intervals of whole numbers cover more than they promise: count the middle of the jumps.
    below = (found.draws < truth).double().mean(0) + torch.rand(len(truth)) * (
        found.draws == truth
    ).double().mean(0)
    covered = ((below > 0.05) & (below < 0.95)).double().mean()
    # 1,800 entries: a standard error of 0.7%; those of a row share its latents.
    assert 0.87 < float(covered) < 0.93
    plain = ((truth >= found.lower) & (truth <= found.upper)).double().mean()
    assert float(plain) > 0.87


def mixed():
    random = np.random.default_rng(4)
    z = random.normal(size=120)
    frame = pd.DataFrame(
        {
            "visits": random.poisson(np.exp(1 + z)),
            "smoker": random.random(120) < 1 / (1 + np.exp(-3 * z)),
            "height": z + 0.3 * random.normal(size=120),
            "colour": pd.Categorical(np.where(z > 0.3, "red", np.where(z < -0.5, "blue", "green"))),
            "grade": pd.Categorical(
                np.where(z > 0.5, "c", np.where(z < -0.5, "a", "b")), ordered=True
            ),
        },
        index=[f"person {k}" for k in range(120)],
    )
    family = F.Columns(
        {
            "visits": F.Poisson(),
            "smoker": F.Bernoulli(),
            "height": F.Gaussian(0.5),
            "colour": F.Categorical(3),
            "grade": F.Ordinal(3, [-1.0, 1.0]),
        }
    )
    holes = frame.astype({"visits": "Int64", "smoker": "boolean"})
    for place in range(5):
        holes.iloc[random.choice(120, 25, replace=False), place] = pd.NA
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=1, missing="nan").double())
    guide.fit(holes, progress=False)
    return frame, holes, guide


def test_a_frame_comes_back_as_a_frame_with_its_kinds_of_columns():
    frame, holes, guide = mixed()
    found = pef.impute(guide, holes[list(reversed(holes.columns))])
    filled = found.filled
    assert list(filled.columns) == list(reversed(holes.columns))
    assert filled.index.equals(holes.index)
    assert not filled.isna().to_numpy().any()
    assert str(filled["smoker"].dtype) == "boolean"
    assert str(filled["visits"].dtype) == "Float64"
    assert filled["colour"].dtype == frame["colour"].dtype
    assert filled["grade"].dtype.ordered
    for name in holes:
        seen = holes[name].notna()
        assert (filled.loc[seen, name] == frame.loc[seen, name]).all()
    for name in ("smoker", "colour", "grade"):
        hidden = holes[name].isna()
        assert (filled.loc[hidden, name] == frame.loc[hidden, name]).mean() > 0.6
    lines = found.to_frame()
    assert set(lines["column"]) == set(holes.columns)
    assert all(
        pd.isna(holes.loc[row, name])
        for row, name in zip(*lines[["row", "column"]].values.T, strict=True)
    )
    assert lines.loc[lines["column"] == "colour", "mean"].isna().all()


def test_arrays_tensors_and_frames_keep_their_kind():
    y, present = gaussian_table()
    holes = y.where(present, torch.nan)
    guide = fitted(holes, F.Gaussian(0.6))
    tables = (holes, holes.numpy(), np.ma.MaskedArray(y.numpy(), ~present.numpy()))
    for table in tables:
        filled = pef.impute(guide, table).filled
        assert np.isfinite(np.asarray(filled)).all()
        assert np.array_equal(np.asarray(filled)[present], y[present].numpy())
    assert isinstance(pef.impute(guide, holes).filled, torch.Tensor)
    assert y.where(present, torch.nan).equal(holes) or holes.isnan().any()  # the table is unchanged
    assert pef.impute(guide, y, mask=present).draws.shape == (200, int((~present).sum()))
    full = pef.impute(guide, y)
    assert len(full.rows) == 0
    assert torch.equal(full.filled, y)


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_frames_of_other_libraries_come_back(kind):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    y, present = gaussian_table()
    holes = y.where(present, torch.nan)
    guide = fitted(holes, F.Gaussian(0.6))
    frame = polars.DataFrame(holes.numpy(), schema=list("abcdef"))
    frame = frame if kind == "polars" else frame.to_arrow()
    filled = pef.impute(guide, frame).filled
    assert type(filled) is type(frame)


def test_a_tile_at_a_time_is_the_whole(monkeypatch):
    y, present = gaussian_table()
    guide = fitted(y, F.Gaussian(0.6), mask=present)
    whole = pef.impute(guide, y, mask=present, num_draws=2_000)
    monkeypatch.setattr("pyro_expfam.prediction.predictive.NUMBERS_AT_ONCE", 2_000 * 6 * 7)
    tiled = pef.impute(guide, y, mask=present, num_draws=2_000)
    torch.testing.assert_close(tiled.mean, whole.mean, rtol=0, atol=0.16)


def test_draws_of_coefficients_widen_the_predictions_of_a_small_table():
    y, _ = gaussian_table(num_rows=12)
    mask = torch.ones(12, 6, dtype=torch.bool)
    mask[:4, 2] = False
    torch.manual_seed(0)
    spread = [
        float(
            pef.impute(
                fitted(y, F.Gaussian(0.6), mask=mask, **more), y, mask=mask
            ).standard_error.mean()
        )
        for more in ({}, {"globals": "laplace"})
    ]
    assert spread[1] > 1.02 * spread[0]


def test_the_offset_of_a_missing_entry_is_that_of_its_mean():
    torch.manual_seed(0)
    y = torch.poisson(torch.full((60, 4), 2.0)).double()
    mask = torch.ones(60, 4, dtype=torch.bool)
    mask[0, 0] = False
    offset = torch.zeros(60, 4).double()
    guide = fitted(y, F.Poisson(), 1, mask=mask)
    plain = pef.impute(guide, y, offset, mask).mean
    offset[0, 0] = 2.0
    torch.testing.assert_close(
        pef.impute(guide, y, offset, mask).mean, np.exp(2.0) * plain, rtol=0.1, atol=0
    )
    offset[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"offset must be finite at the entries to predict.*\(0, 0\)"
    ):
        pef.impute(guide, y, offset, mask)


def test_bad_input():
    y, present = gaussian_table()
    guide = fitted(y, F.Gaussian(0.6), mask=present)
    with pytest.raises(ValueError, match="num_draws must be a whole number"):
        pef.impute(guide, y, num_draws=1)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        pef.impute(guide, y, level=90)
    with pytest.raises(TypeError, match="guide of this package"):
        pef.impute(guide.model, y)
    with pytest.raises(ValueError, match="guide must be trained"):
        pef.impute(pef.LaplaceGuide(guide.model.__class__(F.Poisson(), 3, 1)), y[:, :3])
