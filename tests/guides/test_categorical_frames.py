"""Tables of categories as data frames, and how columns and levels are named."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef

F = pef.families
LEVELS = ["never", "some", "often"]
COLUMNS = ["wine", "beer", "tea", "rum"]
NAMES = [f"{column}={level}" for column in COLUMNS for level in LEVELS]


@pytest.fixture(name="codes")
def table():
    torch.manual_seed(0)
    eta = torch.randn(60, 1) @ torch.randn(1, 3 * len(COLUMNS))
    return pef.distributions.Categorical(eta, 3).sample()


@pytest.fixture(name="frame")
def categories(codes):
    words = pd.DataFrame(np.array(LEVELS)[codes.long().numpy()], columns=COLUMNS)
    return words.astype(pd.CategoricalDtype(LEVELS))


def guide_of(y, levels=3, **settings):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Categorical(levels), len(COLUMNS), 1), **settings)
    guide.fit(y)
    return guide


def test_a_frame_of_categories_has_the_fit_of_its_codes(codes, frame):
    found, expected = guide_of(frame), guide_of(codes)
    torch.testing.assert_close(found.loading, expected.loading)
    torch.testing.assert_close(found.log_evidence(frame), expected.log_evidence(codes))


def test_missing_categories_are_masked(codes, frame):
    mask = torch.rand(codes.shape) < 0.8
    holes = frame.where(mask.numpy())
    with pytest.raises(ValueError, match=r"pass mask=frame.notna\(\)"):
        guide_of(holes)
    guide, expected = (pef.LaplaceGuide(pef.ExpFamPCA(F.Categorical(3), 4, 1)) for _ in range(2))
    guide.fit(holes, mask=holes.notna())
    expected.fit(codes, mask=mask)
    torch.testing.assert_close(guide.loading, expected.loading)


def test_batches_may_be_frames(frame):
    batches = [frame.iloc[:40], frame.iloc[40:]]
    streamed = pef.DEQMAPGuide(pef.ExpFamPCA(F.Categorical(3), 4, 1))
    whole = pef.DEQMAPGuide(pef.ExpFamPCA(F.Categorical(3), 4, 1))
    assert streamed.fit(batches).objective == pytest.approx(whole.fit(frame).objective, rel=1e-5)


def test_other_categories_than_those_of_the_fit_are_refused(frame):
    guide = guide_of(frame)
    turned = frame.assign(tea=frame["tea"].cat.reorder_categories(LEVELS[::-1]))
    with pytest.raises(ValueError, match=r"categories that the guide was trained on.*column 'tea'"):
        guide.posterior(turned)
    guide.posterior(frame.iloc[:3])


def test_the_container_names_columns_and_levels(codes, frame):
    guide = guide_of(frame, globals="laplace")
    idata = pef.to_arviz(guide.model, guide, frame, num_samples=4)
    for group in ("posterior", "prior"):
        assert idata[group]["loading"].dims[2:] == ("predictor", "latent")
        assert idata[group]["intercept"]["predictor"].values.tolist() == NAMES
    assert idata["observed_data"]["y"]["feature"].values.tolist() == COLUMNS
    np.testing.assert_array_equal(idata["observed_data"]["y"].values, codes.numpy())
    aligned = pef.align(idata)
    ax = pef.plots.plot_loading(aligned)
    assert {tick.get_text() for tick in ax.get_yticklabels()} == set(NAMES)


def test_labels_of_columns_name_levels_too(codes):
    guide = guide_of(codes)
    idata = pef.to_arviz(guide.model, guide, codes, num_samples=2)
    assert idata["posterior"]["predictor"].values.tolist()[:4] == ["0=0", "0=1", "0=2", "1=0"]
    labels = {"feature": ["a", "b", "c", "d"]}
    idata = pef.to_arviz(guide.model, guide, codes, num_samples=2, coords=labels)
    assert idata["posterior"]["predictor"].values.tolist()[-1] == "d=2"
    own = {"predictor": list(range(12))}
    idata = pef.to_arviz(guide.model, guide, codes, num_samples=2, coords=own)
    assert idata["posterior"]["predictor"].values.tolist() == own["predictor"]


def test_check_names_levels_that_are_never_seen(codes, frame):
    def report(y, **settings):
        model = pef.ExpFamPCA(F.Categorical(4), 4, 1, **settings)
        guide = pef.LaplaceGuide(model)
        guide.fit(y)
        return pef.check(model, guide, y)

    cases = ((frame, COLUMNS, {}), (codes, range(4), {"intercept_scale": None}))
    for y, names, settings in cases:
        found = report(y, **settings)
        assert found.blocks[""].estimates.unseen_levels == [3, 7, 11, 15]
        assert found.blocks[""].estimates.extreme_features == []
        (said,) = [x.text for x in found.findings[""] if x.subject == "columns"]
        listed = ", ".join(f"{name}=3" for name in names)
        unknown = "Under a flat prior their" if settings else "Their loading and intercept"
        assert said.startswith(f"4 levels ({listed}) are never seen. {unknown}")


def test_check_names_a_column_without_entries(frame):
    mask = torch.ones(60, 4, dtype=torch.bool)
    mask[:, 2] = False
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Categorical(3), 4, 1))
    guide.fit(frame, mask=mask)
    found = pef.check(guide.model, guide, frame, mask=mask)
    assert found.blocks[""].estimates.empty_features == [2]
    assert any("1 feature (tea) is without any entry" in x.text for x in found.findings[""])


@pytest.mark.parametrize("level", [3.0, -1.0, 0.5])
def test_a_code_outside_is_named_with_its_place(codes, level):
    codes[7, 2] = level
    message = rf"whole numbers 0 to 2; got {level:g} at position \(7, 2\)"
    with pytest.raises(ValueError, match=message):
        guide_of(codes)


def test_codes_from_one_are_told_to_be_recoded(codes):
    with pytest.raises(ValueError, match=r"0 to 2 \(recode answers 1 to 3 to 0 to 2\); got 3"):
        guide_of(codes + 1)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((60, 4, 3), r"got \(60, 4, 3\): pass offset.flatten\(-2\)"),
        ((4, 3), r"got \(4, 3\): pass offset.flatten\(-2\)"),
        ((60, 4), r"got \(60, 4\): one number for all levels of a column would change no"),
        ((4,), r"got \(4,\): one number for all levels of a column would change no"),
        ((60,), r"got \(60,\)$"),
    ],
)
def test_an_offset_of_another_shape_is_told_which_shapes_there_are(codes, shape, advice):
    shapes = r"\(..., 60, 12\), \(12,\), \(60, 1\) or one number, for 4 columns of 3 levels"
    with pytest.raises(ValueError, match=f"offset must have the shape {shapes}.*{advice}"):
        pef.log_evidence(
            F.Categorical(3), codes, torch.zeros(12, 1), torch.zeros(12), offset=torch.zeros(shape)
        )


@pytest.mark.parametrize("shape", [(60, 12), (12,), (1, 12), (60, 1), (), (2, 60, 12)])
def test_offsets_that_fit_are_taken(codes, shape):
    offset = 0.3 * torch.randn(shape)
    W, b = torch.randn(12, 1), torch.zeros(12)
    found = pef.log_evidence(F.Categorical(3), codes, W, b, offset=offset)
    full = offset.broadcast_to(*shape[:-2], 60, 12)
    expected = pef.log_evidence(F.Categorical(3), codes, W, b, offset=full)
    torch.testing.assert_close(found, expected)


def test_pictures_of_a_container_know_categories(frame):
    guide = guide_of(frame, globals="laplace")
    aligned = pef.align(pef.to_arviz(guide.model, guide, frame, num_samples=40))
    assert aligned["observed_data"]["y"].attrs["levels"] == 3
    ax = pef.plots.plot_reconstruction(aligned)
    assert ax.get_xlabel() == "predicted probability of a level"
    # What all levels share has its prior, and is left out of the intervals.
    ax = pef.plots.plot_loading(aligned)
    (points,) = (
        c for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_offsets()) == 12
    )
    draws = aligned["posterior"]["loading"].values[0, ..., 0]
    by_level = draws.reshape(40, 4, 3)
    centred = (by_level - by_level.mean(-1, keepdims=True)).reshape(40, 12)
    found = np.sort(np.asarray(points.get_offsets())[:, 0])
    np.testing.assert_allclose(found, np.sort(np.median(centred, 0)), rtol=1e-5)


def test_names_of_levels_label_a_loading():
    names = F.Categorical(3).level_names(COLUMNS)
    assert names[:4] == ["wine=0", "wine=1", "wine=2", "beer=0"]
    ax = pef.plots.plot_loading(torch.randn(12, 1), names=names)
    assert {tick.get_text() for tick in ax.get_yticklabels()} == set(names)
