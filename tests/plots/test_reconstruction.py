"""Observations against predictions."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

import pyro_expfam as pef
from pyro_expfam.plots import plot_reconstruction

ROWS, FEATURES = 6, 4


@pytest.fixture
def y():
    return torch.randn(ROWS, FEATURES, dtype=torch.float64)


@pytest.fixture
def draws():
    return torch.randn(2, 40, ROWS, FEATURES, dtype=torch.float64)


def bars(ax):
    (collection,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return np.array([[x, low, high] for (x, low), (_, high) in collection.get_segments()])


def points(ax):
    """Those inside and those outside their intervals."""
    return [
        np.asarray(c.get_offsets()) for c in ax.collections if not isinstance(c, LineCollection)
    ]


def test_entries_stand_at_their_means_with_quantiles(y, draws, ax):
    assert plot_reconstruction(y, draws, level=0.8, ax=ax) is ax
    samples = draws.flatten(0, 1).flatten(1).numpy()
    low, high = np.quantile(samples, [0.1, 0.9], axis=0)
    np.testing.assert_allclose(bars(ax), np.stack([samples.mean(0), low, high], -1))
    inside, outside = points(ax)
    value = y.flatten().numpy()
    kept = (low <= value) & (value <= high)
    np.testing.assert_allclose(inside, np.stack([samples.mean(0), value], -1)[kept])
    np.testing.assert_allclose(outside, np.stack([samples.mean(0), value], -1)[~kept])
    assert ax.get_title() == f"{kept.sum()} of 24 entries in 80% intervals"


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({"rows": [0, -1]}, np.s_[[0, -1]]),
        ({"features": torch.tensor([2])}, np.s_[:, [2]]),
        ({"rows": [1], "features": [3, 0]}, np.s_[1, [0, 3]]),
    ],
)
def test_rows_and_features_are_chosen(y, draws, chosen, wanted):
    ax = plot_reconstruction(y, draws, **chosen)
    shown = np.concatenate(points(ax))[:, 1]
    np.testing.assert_allclose(np.sort(shown), np.sort(y.numpy()[wanted].ravel()))


def test_missing_entries_are_left_out(y, draws):
    y[0, :2] = torch.nan
    assert len(np.concatenate(points(plot_reconstruction(y, draws)))) == 22


def test_predictions_of_the_truth_are_calibrated(ax):
    scale = torch.rand(40, 50)
    plot_reconstruction(scale * torch.randn(40, 50), scale * torch.randn(400, 40, 50), ax=ax)
    inside, outside = points(ax)
    assert len(inside) / (len(inside) + len(outside)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("missing", [False, True])
def test_container_brings_both(missing):
    y = torch.poisson(torch.full((ROWS, FEATURES), 2.0))
    mask = torch.ones(ROWS, FEATURES, dtype=torch.bool)
    mask[0, 0] = not missing
    model = pef.ExpFamPCA(pef.families.Poisson(), FEATURES, 2)
    guide = pef.LaplaceGuide(model)
    guide(y)
    idata = pef.to_arviz(model, guide, y, mask=mask, num_samples=30)
    ax = plot_reconstruction(idata)
    predicted = idata["posterior_predictive"]["y"].values[0].mean(0).ravel()
    np.testing.assert_allclose(bars(ax)[:, 0], predicted, rtol=1e-6)
    if missing:
        with pytest.raises(ValueError, match=r"rows must be left out where .* shape \(23,\)"):
            plot_reconstruction(idata, rows=[0])
    with pytest.raises(ValueError, match=r"variable must be one of .*'y'.* got 'x'"):
        plot_reconstruction(idata, variable="x")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"predictive": None}, TypeError, "predictive must be posterior .* Tensor alone"),
        ({"predictive": torch.zeros(6, 4)}, ValueError, r"predictive .* \(..., 6, 4\) .*\(6, 4\)"),
        ({"predictive": torch.zeros(9, 5, 4)}, ValueError, r"predictive .* got \(9, 5, 4\)"),
        ({"rows": [6]}, ValueError, r"rows must be positions among 6, got \[6\]"),
        ({"features": [0.5]}, ValueError, "features must be positions among 4"),
        ({"rows": []}, ValueError, "rows must be positions among 6"),
        ({"observed": torch.full((6, 4), torch.nan)}, ValueError, "observed must have an entry"),
        ({"level": 2}, ValueError, "level must be between 0 and 1, got 2"),
    ],
)
def test_bad_arguments_are_named(y, draws, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_reconstruction(**{"observed": y, "predictive": draws, **arguments})
