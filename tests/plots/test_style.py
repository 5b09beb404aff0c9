"""What all pictures share."""

import string
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_expfam.plots import plot_khat, plot_latents, plot_loading
from pyro_expfam.plots.style import LONGEST_NAME, short_names


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyro-expfam\[plots\]'"):
        plot_khat([0.1])


@pytest.mark.parametrize("share", [False, True, "row"])
def test_a_unit_is_as_long_on_both_axes_whatever_they_share(share):
    figure, axes = plt.subplots(2, 2, sharex=share, sharey=share)
    rng = np.random.default_rng(0)
    for ax in axes.flat:
        plot_latents(rng.normal(size=(9, 2)) * [3.0, 1.0], ax=ax)
    figure.canvas.draw()
    for ax in axes.flat:
        across, up = ax.transData.transform([(1.0, 0.0), (0.0, 1.0)]) - ax.transData.transform(
            (0.0, 0.0)
        )
        assert across[0] == pytest.approx(up[1], rel=1e-3)
    plt.close(figure)


def test_names_that_are_short_stay_as_they_are():
    assert short_names(["oak", 3, "oak"]) == ["oak", "3", "oak"]


def test_long_names_show_what_differs():
    names = [f"How often do you feel item {k} (0=never, 4=always)?" for k in range(1, 13)]
    found = short_names(names)
    assert all(f"item {k} " in label for k, label in enumerate(found, 1))
    assert max(map(len, found)) <= LONGEST_NAME


@pytest.mark.parametrize("length", [1, 5, 30, 80])
def test_different_names_have_different_labels(length):
    rng = np.random.default_rng(length)

    def word(size):
        return "".join(rng.choice(list(string.ascii_lowercase), size))

    before, after = word(int(rng.integers(40))), word(int(rng.integers(40)))
    names = [before + word(length) + after for _ in range(20)]
    # Names that differ at one letter in their middle.
    other = word(40) + "A" + word(40)
    names += [other, other.replace("A", "B")]
    labels = short_names(names)
    assert len(set(labels)) == len(set(names))
    assert max(map(len, labels)) <= LONGEST_NAME + 2


def test_names_of_loadings_show_what_differs():
    names = [f"the same beginning of all names {k} and the same end" for k in range(3)]
    ax = plot_loading(np.array([[3.0], [2.0], [1.0]]), names=names)
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert [str(k) in label for k, label in enumerate(shown)] == [True] * 3


def test_titles_of_pictures_side_by_side_are_apart():
    figure = Figure()
    axes = figure.subplots(1, 2)
    z, covariance = np.random.default_rng(0).normal(size=(500, 2)), np.tile(np.eye(2), (500, 1, 1))
    for ax in axes:
        plot_latents(z, covariance / 9, ax=ax)
    figure.draw_without_rendering()
    left, right = (ax.title.get_window_extent() for ax in axes)
    assert left.x1 < right.x0
