"""Pareto shapes with their thresholds."""

import itertools

import arviz as az
import numpy as np
import pytest
import torch
import xarray
from matplotlib.colors import same_color

import pyro_expfam as pef
from pyro_expfam.plots import plot_khat
from pyro_expfam.plots.style import RED

KHAT = np.array([0.1, 0.9, 0.69, -0.2, 0.71])


def groups(ax):
    return [np.asarray(c.get_offsets()) for c in ax.collections]


def thresholds(ax):
    return [line.get_ydata()[0] for line in ax.lines]


def test_rows_are_parted_at_the_threshold(ax):
    assert plot_khat(torch.tensor(KHAT), ax=ax) is ax
    reliable, high, infinite = groups(ax)
    np.testing.assert_allclose(reliable, [[0, 0.1], [2, 0.69], [3, -0.2]])
    np.testing.assert_allclose(high, [[1, 0.9], [4, 0.71]])
    assert not len(infinite)
    assert thresholds(ax) == [0.5, 0.7]
    assert ax.get_title() == "2 of 5 rows above 0.7"


@pytest.mark.parametrize(("num_draws", "wanted"), [(100, 0.5), (1000, 2 / 3), (10**6, 0.7)])
def test_threshold_of_few_draws_is_lower(num_draws, wanted):
    assert thresholds(plot_khat(KHAT, num_draws=num_draws)) == pytest.approx([wanted])


def test_infinite_ones_are_at_the_edge_and_counted():
    ax = plot_khat([0.1, np.inf, 0.2])
    np.testing.assert_array_equal(groups(ax)[2], [[1, 1]])
    assert ax.get_title() == "1 of 3 rows above 0.7"
    assert np.isfinite(ax.get_ylim()).all()


def test_constant_weights_are_at_the_lower_edge():
    ax = plot_khat([0.1, -np.inf, 0.2])
    np.testing.assert_array_equal(groups(ax)[3], [[1, 0]])
    assert ax.get_title() == "0 of 3 rows above 0.7"
    assert np.isfinite(ax.get_ylim()).all()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_result_of_arviz_is_taken():
    y = torch.poisson(torch.full((12, 4), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 2)
    idata = pef.to_arviz(model, pef.LaplaceGuide(model), y, num_samples=100)
    ax = plot_khat(az.loo(idata, pointwise=True))
    assert sum(map(len, groups(ax))) == 48
    assert "of 48 entries" in ax.get_title()
    assert ax.get_title().startswith("Leaving out an entry (PSIS-LOO)")
    assert ax.get_xlabel() == "entry"
    assert thresholds(ax) == [0.5]
    ax = plot_khat(az.loo(idata, var_name="y_marginal", pointwise=True))
    assert "of 12 rows" in ax.get_title()
    assert ax.get_title().startswith("Leaving out a row (PSIS-LOO)")
    assert ax.get_xlabel() == "row"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_result_of_arviz_of_a_table_with_missing_entries_is_taken():
    y, mask = torch.poisson(torch.full((12, 4), 2.0)), torch.ones(12, 4, dtype=torch.bool)
    mask[0, :2], mask[3] = False, False
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 2)
    idata = pef.to_arviz(model, pef.LaplaceGuide(model), y, mask=mask, num_samples=100)
    entries = plot_khat(az.loo(idata, pointwise=True))
    assert "of 42 entries" in entries.get_title()
    for name in ("y_row", "y_marginal"):
        rows = plot_khat(az.loo(idata, var_name=name, pointwise=True))
        assert "of 11 rows" in rows.get_title()


def test_container_brings_the_shapes_of_rows_and_their_draws():
    y = torch.poisson(torch.full((12, 4), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 4, 2)
    idata = pef.to_arviz(model, pef.LaplaceGuide(model), y, num_samples=20)
    ax = plot_khat(idata)
    assert sum(map(len, groups(ax))) == 12
    assert ax.get_title().endswith("of 12 rows above 0.67")
    assert ax.get_title().startswith("Laplace posterior of the latents")
    # Of 1,000 draws, unless another number is given.
    assert thresholds(ax) == pytest.approx([2 / 3])
    assert thresholds(plot_khat(idata, num_draws=100)) == pytest.approx([0.5])
    with pytest.raises(ValueError, match=r"variable must be one of .*'khat'.* got 'k'"):
        plot_khat(idata, variable="k")


def test_titles_are_red_where_shapes_are_too_large():
    assert same_color(plot_khat(KHAT).title.get_color(), RED)
    assert not same_color(plot_khat(KHAT / 2).title.get_color(), RED)


def test_rows_that_are_too_large_have_their_names():
    names = ["oak", "elm", "ash", "yew", "fir", "box", "may", "bay"]
    khat = np.array([0.1, 0.8, 0.9, 1.5, 0.95, np.inf, 0.85, 1.2])
    stats = xarray.Dataset({"khat": ("row", khat)}, {"row": names})
    ax = plot_khat(xarray.DataTree.from_dict({"sample_stats": stats}))
    shown = [text.get_text() for text in ax.texts if text.get_text() in names]
    assert shown == ["yew", "bay", "fir", "ash", "may"]


def test_names_of_neighbours_are_apart():
    names = [f"patient {k}" for k in range(100)]
    khat = np.full(100, 0.1)
    khat[50:55] = 0.9 + 0.01 * np.arange(5)
    stats = xarray.Dataset({"khat": ("row", khat)}, {"row": names})
    ax = plot_khat(xarray.DataTree.from_dict({"sample_stats": stats}))
    ax.figure.draw_without_rendering()
    shown = [text.get_window_extent() for text in ax.texts if text.get_text() in names]
    assert len(shown) == 5
    assert not any(a.overlaps(b) for a, b in itertools.combinations(shown, 2))


def test_a_picture_of_an_exact_posterior_says_so():
    ax = plot_khat(np.full(9, -np.inf))
    assert "exact: importance weights do not vary" in [text.get_text() for text in ax.texts]
    ax = plot_khat([0.1, -np.inf])
    assert not any("exact" in text.get_text() for text in ax.texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"khat": []}, r"khat must be numbers per row, .* got shape \(0,\)"),
        ({"khat": 0.3}, r"khat must be numbers per row, .* got shape \(\)"),
        ({"khat": [0.3, np.nan]}, "khat must be numbers per row, .* with 1 missing"),
        ({"khat": KHAT, "num_draws": 10}, "num_draws must be above 10, got 10"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_khat(**arguments)
