"""Ranks with the band of a uniform law."""

import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.colors import same_color

from pyro_expfam.plots import plot_calibration
from pyro_expfam.plots.style import BLUE, RED, VERMILLION


def counts(ax):
    return np.array([bar.get_height() for bar in ax.patches])


def band(ax):
    """The lowest and highest place of the band."""
    (region,) = ax.collections
    vertices = region.get_paths()[0].vertices
    return vertices[:, 1].min(), vertices[:, 1].max()


def test_bars_count_the_ranks(ax):
    ranks = torch.randint(0, 100, (500,))
    assert plot_calibration(ranks, num_draws=99, ax=ax) is ax
    np.testing.assert_array_equal(counts(ax), np.bincount(ranks.numpy() // 5, minlength=20))
    assert ax.get_xlim() == (-0.5, 99.5)


@pytest.mark.parametrize(("num_draws", "bins"), [(99, 20), (63, 16), (100, 20), (3, 4), (127, 16)])
def test_bars_are_of_equal_width_where_they_can(num_draws, bins):
    ranks = np.arange(num_draws + 1)
    ax = plot_calibration(ranks, num_draws)
    assert len(counts(ax)) == bins
    assert counts(ax).sum() == len(ranks)
    if (num_draws + 1) % bins == 0:
        assert set(counts(ax)) == {(num_draws + 1) / bins}


def test_band_is_binomial(ax):
    plot_calibration(np.arange(300) % 50, 49, bins=10, level=0.95, ax=ax)
    assert band(ax) == scipy.stats.binom.interval(0.95, 300, 0.1)


def test_bars_outside_the_band_stand_out():
    ax = plot_calibration(np.zeros(100), 19, bins=4)
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert all(same_color(colour, VERMILLION) for colour in colours)
    assert ax.get_title() == "Ranks of the truth: 4 of 4 bars outside"
    assert same_color(ax.title.get_color(), RED)
    even = plot_calibration(np.arange(100) % 20, 19, bins=4)
    assert all(same_color(bar.get_facecolor(), BLUE) for bar in even.patches)
    assert even.get_title() == "Ranks of the truth: 0 of 4 bars outside"
    assert not same_color(even.title.get_color(), RED)


def test_titles_are_seldom_red_where_ranks_are_uniform():
    rng = np.random.default_rng(0)
    axes = [plot_calibration(rng.integers(0, 100, 400), 99, level=0.9) for _ in range(20)]
    assert sum(same_color(ax.title.get_color(), RED) for ax in axes) <= 1
    assert any("0 of 20" not in ax.get_title() for ax in axes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": []}, r"ranks must be of shape \(N,\), got \(0,\)"),
        ({"ranks": [[1]]}, r"ranks must be of shape \(N,\), got \(1, 1\)"),
        ({"ranks": [0.5]}, "ranks must be integers from 0 to num_draws, 9, got .* 0.5 to 0.5"),
        ({"ranks": [10]}, "ranks must be integers from 0 to num_draws, 9, got .* 10 to 10"),
        ({"ranks": [-1]}, "ranks must be integers"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"bins": 11}, "bins must be from 1 to num_draws \\+ 1, 10, got 11"),
        ({"level": -1}, "level must be between 0 and 1, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_calibration(**{"ranks": [1, 2], "num_draws": 9, **arguments})
