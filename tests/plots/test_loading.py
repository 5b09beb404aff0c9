"""Loadings by size, with their intervals."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from matplotlib.colors import same_color
from pyro.infer.autoguide import AutoNormal

import pyro_expfam as pef
from pyro_expfam.plots import plot_loading
from pyro_expfam.plots.loading import UNSURE
from pyro_expfam.plots.style import BLUE

FEATURES = 7


@pytest.fixture
def W():
    return torch.randn(FEATURES, 2, dtype=torch.float64)


def centres(ax):
    """The estimates from top to bottom."""
    centres, places = ax.collections[-1].get_offsets().T
    assert (np.diff(places) > 0).all()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    return np.asarray(centres)


def intervals(ax):
    bars, _ = ax.collections
    return np.array([[segment[0, 0], segment[1, 0]] for segment in bars.get_segments()])


def shown(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_the_largest_loadings_are_on_top(W, ax):
    assert plot_loading(W, latent=1, num_features=4, ax=ax) is ax
    order = W[:, 1].abs().argsort(descending=True)[:4]
    np.testing.assert_allclose(centres(ax), W[order, 1])
    assert shown(ax) == [str(int(feature)) for feature in order]
    assert ax.get_xlabel() == "loading of latent 1"
    assert len(ax.collections) == 1
    assert ax.get_title() == "4 largest of 7 loadings"


def test_intervals_of_standard_deviations_are_those_of_a_normal(W):
    sd = torch.rand(FEATURES, 2, dtype=torch.float64)
    ax = plot_loading(W, sd, level=0.8)
    order = W[:, 0].abs().argsort(descending=True)
    wanted = scipy.stats.norm.interval(0.8, W[order, 0], sd[order, 0])
    np.testing.assert_allclose(intervals(ax), np.stack(wanted, -1))


def test_intervals_of_draws_are_quantiles(W):
    draws = W + 0.1 * torch.randn(2, 50, FEATURES, 2, dtype=torch.float64)
    ax = plot_loading(draws, latent=-1)
    flat = draws[..., 1].flatten(0, 1).numpy()
    low, centre, high = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
    order = np.argsort(-np.abs(centre))
    np.testing.assert_allclose(centres(ax), centre[order])
    np.testing.assert_allclose(intervals(ax), np.stack([low, high], -1)[order])


def test_intervals_that_hold_zero_are_grey():
    ax = plot_loading([[2.0], [-2.0], [1.0]], [[1.0], [1.5], [1.0]], level=0.9)
    colours = ax.collections[0].get_colors()
    assert same_color(colours[0], BLUE)
    assert all(same_color(colour, UNSURE) for colour in colours[1:])


def test_draws_of_a_point_estimate_have_no_intervals(W):
    ax = plot_loading(W.expand(2, 50, FEATURES, 2))
    np.testing.assert_allclose(centres(ax), W[W[:, 0].abs().argsort(descending=True), 0])
    assert len(ax.collections) == 1


@pytest.mark.parametrize("own_figure", [True, False])
def test_names_of_many_features_do_not_cover_each_other(own_figure, ax):
    names = [f"gene {feature} with a name beyond what there is room for" for feature in range(300)]
    ax = plot_loading(
        torch.randn(300, 1), names=names, num_features=150, ax=None if own_figure else ax
    )
    ax.figure.draw_without_rendering()
    labels = [tick for tick in ax.get_yticklabels() if tick.get_text()]
    extents = [tick.get_window_extent() for tick in labels]
    gaps = [above.y0 - below.y1 for above, below in itertools.pairwise(extents)]
    assert min(gaps) > -1
    assert len(labels) >= 25
    assert max(len(tick.get_text()) for tick in labels) <= 28


def test_container_brings_draws_and_names():
    y = torch.poisson(torch.full((12, 4), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 2)
    guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
    names = ["north", "east", "south", "west"]
    frame = pd.DataFrame(y.numpy(), columns=names)
    idata = pef.align(pef.to_arviz(model, guide, frame, num_samples=20))
    ax = plot_loading(idata)
    by_hand = plot_loading(idata["posterior"]["loading"].values, names=names)
    assert shown(ax) == shown(by_hand)
    assert set(shown(ax)) == set(names)
    np.testing.assert_array_equal(intervals(ax), intervals(by_hand))
    with pytest.raises(ValueError, match=r"variable must be one of .*'loading'.* got 'genes'"):
        plot_loading(idata, variable="genes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loading": torch.zeros(3)}, r"loading must be of shape \(..., d, l\), .* got \(3,\)"),
        ({"sd": torch.zeros(2)}, r"sd must be of shape \(7, 2\), got \(2,\)"),
        ({"loading": torch.zeros(3, 7, 2), "sd": torch.zeros(7, 2)}, "sd must be left out"),
        ({"latent": 2}, "latent must be a position among 2, got 2"),
        ({"names": ["a"]}, "names must be one for each of 7 features, got 1"),
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"level": 0}, "level must be between 0 and 1, got 0"),
    ],
)
def test_bad_arguments_are_named(W, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_loading(**{"loading": W, **arguments})
