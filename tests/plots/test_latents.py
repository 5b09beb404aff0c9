"""The plane of two latents: points, regions and colours."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import same_color
from matplotlib.patches import Ellipse

import pyro_expfam as pef
from pyro_expfam.plots import plot_latents
from pyro_expfam.plots.style import RED

ROWS, LATENTS = 6, 3


@pytest.fixture
def z():
    return torch.randn(ROWS, LATENTS, dtype=torch.float64)


@pytest.fixture
def covariance():
    root = torch.randn(ROWS, LATENTS, LATENTS, dtype=torch.float64)
    return root @ root.mT + 0.1 * torch.eye(LATENTS)


def ellipses(ax):
    (collection,) = (c for c in ax.collections if isinstance(c, EllipseCollection))
    return collection


def points(ax):
    drawn = [c for c in ax.collections if not isinstance(c, EllipseCollection)]
    return np.concatenate([c.get_offsets() for c in drawn if len(c.get_offsets())])


def test_points_are_two_of_the_latents(z, ax):
    assert plot_latents(z, dims=(0, 2), ax=ax) is ax
    np.testing.assert_allclose(points(ax), z[:, [0, 2]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 0", "latent 2")
    assert ax.get_aspect() == 1


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_axes_of_regions_are_eigenvalues_by_the_chi_squared_quantile(z, covariance, level):
    drawn = ellipses(plot_latents(z, covariance, dims=(2, 0), level=level))
    marginal = covariance[:, [2, 0]][:, :, [2, 0]]
    values = np.linalg.eigvalsh(marginal)
    wanted = 2 * np.sqrt(values * scipy.stats.chi2.ppf(level, 2))
    np.testing.assert_allclose(drawn.get_heights(), wanted[:, 0])
    np.testing.assert_allclose(drawn.get_widths(), wanted[:, 1])


def test_regions_hold_their_probability(z, covariance):
    drawn = ellipses(plot_latents(z, covariance, level=0.9))
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        draws = rng.multivariate_normal(
            z[row, :2].numpy(), covariance[row, :2, :2].numpy(), size=4000
        )
        patch = Ellipse(
            drawn.get_offsets()[row],
            drawn.get_widths()[row],
            drawn.get_heights()[row],
            angle=drawn.get_angles()[row],
        )
        inside = patch.get_path().transformed(patch.get_patch_transform()).contains_points(draws)
        assert inside.mean() == pytest.approx(0.9, abs=0.02)


def test_regions_are_within_the_axes(z, covariance):
    ax = plot_latents(z, 100 * covariance)
    reach = (scipy.stats.chi2.ppf(0.9, 2) * 100 * covariance[:, 0, 0]).sqrt()
    low, high = ax.get_xlim()
    assert low <= float((z[:, 0] - reach).min())
    assert high >= float((z[:, 0] + reach).max())


@pytest.mark.parametrize("rows", [1, 40, 400])
def test_overlapping_regions_can_be_told_apart(rows):
    z = 0.2 * torch.randn(rows, 2)
    drawn = ellipses(plot_latents(z, torch.eye(2).expand(rows, 2, 2)))
    opacity = drawn.get_facecolor()[:, 3]
    assert 0.1 < 1 - np.prod(1 - opacity) < 0.9


def test_many_rows_have_a_few_regions_none_in_another():
    z, covariance = torch.randn(3000, 2), 0.05 * torch.eye(2).expand(3000, 2, 2)
    ax = plot_latents(z, covariance, num_regions=25)
    assert len(points(ax)) == 3000
    centres = ellipses(ax).get_offsets()
    assert len(centres) == 25
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1)
    assert distance[~np.eye(25, dtype=bool)].min() > (-2 * np.log(0.1) * 0.05) ** 0.5
    assert np.ptp(centres[:, 0]) > 0.9 * np.ptp(z[:, 0].numpy())
    assert ax.get_title() == "Latents, with 90% regions of 25 of 3,000 rows"


def test_large_regions_are_as_few_as_do_not_hide_each_other():
    z = torch.randn(3000, 2)
    assert len(ellipses(plot_latents(z, torch.eye(2).expand(3000, 2, 2))).get_offsets()) < 15


def strip(ax):
    """The places of the intervals and points of a strip."""
    (bars,) = (c for c in ax.collections if isinstance(c, LineCollection))
    (drawn,) = (c for c in ax.collections if not isinstance(c, LineCollection))
    ends = np.array([[segment[0, 0], segment[1, 0]] for segment in bars.get_segments()])
    return ends, np.asarray(drawn.get_offsets())


def test_a_single_latent_is_a_strip_in_order(ax):
    z, variance = torch.randn(30, 1, dtype=torch.float64), torch.rand(30, 1, 1).double()
    plot_latents(z, variance, level=0.8, ax=ax)
    ends, offsets = strip(ax)
    wanted = scipy.stats.norm.interval(0.8, z[:, 0], variance[:, 0, 0].sqrt())
    np.testing.assert_allclose(ends, np.stack(wanted, -1))
    np.testing.assert_allclose(offsets[:, 0], z[:, 0])
    assert (np.diff(offsets[:, 1][np.argsort(z[:, 0].numpy())]) == 1).all()
    assert ax.get_xlabel() == "latent 0"


def test_heights_of_rows_in_order_are_whole_numbers(ax):
    """By default 18 rows have ticks at multiples of 2.5."""
    plot_latents(torch.randn(18, 1), ax=ax)
    ticks = ax.get_yticks()
    assert len(ticks) > 2
    assert (ticks == ticks.round()).all()


def test_one_of_several_latents_can_be_a_strip(z, covariance, ax):
    plot_latents(z, covariance, dims=[2], ax=ax)
    np.testing.assert_allclose(strip(ax)[1][:, 0], z[:, 2])
    assert ax.get_xlabel() == "latent 2"


def test_rows_of_a_strip_are_by_group():
    labels = np.array(["b", "a", None, "b", "a", "b"], dtype=object)
    ax = plot_latents(torch.randn(ROWS, 1), torch.ones(ROWS, 1, 1), labels)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "missing"]
    np.testing.assert_array_equal(strip(ax)[1][:, 1].round(), [1, 0, 2, 1, 0, 1])


def test_rows_of_a_strip_are_at_their_numbers():
    numbers = np.array([3.0, 1.0, np.nan, 2.0, 1.5, 4.0])
    ax = plot_latents(torch.randn(ROWS, 1), torch.ones(ROWS, 1, 1), numbers)
    places = strip(ax)[1][:, 1]
    np.testing.assert_allclose(places[~np.isnan(numbers)], numbers[~np.isnan(numbers)])
    assert places[2] < 1.0
    assert "missing" in [text.get_text().strip() for text in ax.texts]


def collapsed(unused, rows=200):
    """Latents and covariances as where the loading of some is zero."""
    z, covariance = torch.randn(rows, 3).double(), 0.1 * torch.eye(3).double().repeat(rows, 1, 1)
    z[:, unused] *= 1e-3
    for dim in unused:
        covariance[:, dim, dim] = 1.0
    return z, covariance


def test_a_latent_that_is_not_used_is_named_and_not_drawn():
    z, covariance = collapsed([1])
    ax = plot_latents(z, covariance)
    assert "latent 1 is not used" in ax.get_title()
    assert same_color(ax.title.get_color(), RED)
    np.testing.assert_allclose(strip(ax)[1][:, 0], z[:, 0])
    assert ax.get_xlabel() == "latent 0"
    both = plot_latents(*collapsed([0, 1]))
    assert "latents 0 and 1 are not used" in both.get_title()
    used = plot_latents(z, covariance, dims=(0, 2))
    assert used.get_title().endswith("of 200 rows")
    assert not same_color(used.title.get_color(), RED)


def test_a_direction_that_is_not_used_is_named():
    z, covariance = collapsed([1])
    turn = torch.linalg.qr(torch.tensor([[1.0, 2, 0], [-2, 1, 0], [0, 0, 1]]).double()).Q
    ax = plot_latents(z @ turn, turn.mT @ covariance @ turn)
    assert "a direction of latents 0 and 1 is not used" in ax.get_title()
    assert not [c for c in ax.collections if isinstance(c, EllipseCollection)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a", "b", None, "a", float("nan"), "b"], ["a", "b", "missing"]),
        (pd.Series(["b", "a", pd.NA, "a", "b", "b"], dtype="string"), ["a", "b", "missing"]),
        (pd.Series([1, 2, pd.NA, 1, 2, 2], dtype="Int64"), ["1", "2", "missing"]),
        (pd.Categorical(["v", None, "u", "u", "v", "v"]), ["u", "v", "missing"]),
        ([None] * ROWS, ["missing"]),
        (["a", 1, "a", 1, None, 2.5], ["1", "2.5", "a", "missing"]),
    ],
    ids=["list", "strings", "integers", "categories", "none", "mixed"],
)
def test_labels_that_are_missing_are_named(z, covariance, labels, names):
    ax = plot_latents(z, covariance, labels)
    assert ax.get_legend_handles_labels()[1] == names
    assert len(points(ax)) == ROWS
    assert len(ellipses(ax).get_offsets()) == ROWS


@pytest.mark.parametrize("kind", [np.array, list, lambda values: np.array(values, dtype=object)])
def test_numbers_that_are_missing_are_outside_the_colour_scale(z, covariance, kind):
    values = [0.5, float("nan"), 2.5, 1.0, float("nan"), 1.5]
    ax = plot_latents(z, covariance, kind(values))
    (scatter,) = (c for c in ax.collections if c.get_array() is not None)
    np.testing.assert_allclose(np.sort(scatter.get_array()), [0.5, 1.0, 1.5, 2.5])
    assert scatter.get_clim() == (0.5, 2.5)
    assert ax.get_legend_handles_labels()[1] == ["missing"]
    assert len(points(ax)) == ROWS
    assert np.isfinite(ellipses(ax).get_facecolor()).all()


def test_too_many_names_are_counted():
    labels = np.arange(100) % 50
    labels[0] = 49
    names = plot_latents(torch.randn(100, 2), labels=labels).get_legend_handles_labels()[1]
    assert len(names) == 37
    assert names[-1] == "and 14 more"
    assert "49" in names


def test_legends_are_within_the_figure():
    labels = [f"a rather long name {row % 40}" for row in range(120)]
    ax = plot_latents(torch.randn(120, 2), labels=labels)
    ax.figure.draw_without_rendering()
    legend, figure = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert figure.x0 <= legend.x0
    assert legend.x1 <= figure.x1
    assert figure.y0 <= legend.y0
    assert legend.y1 <= figure.y1


def test_tensors_of_a_graph_are_drawn():
    z = torch.randn(ROWS, 2, requires_grad=True)
    covariance = torch.eye(2).expand(ROWS, 2, 2).clone().requires_grad_()
    values = torch.randn(ROWS, requires_grad=True)
    np.testing.assert_allclose(
        points(plot_latents(z, covariance, values))[:, 0].sum(), z[:, 0].sum().item(), rtol=1e-5
    )
    np.testing.assert_allclose(points(plot_latents(list(z))), z.detach())


def test_posterior_brings_its_covariances():
    y = torch.poisson(torch.full((8, 5), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
    guide = pef.LaplaceGuide(model)
    guide(y)
    posterior = guide.posterior(y)
    by_hand = ellipses(plot_latents(posterior.mean, posterior.covariance_matrix))
    drawn = plot_latents(posterior)
    np.testing.assert_allclose(ellipses(drawn).get_widths(), by_hand.get_widths())
    np.testing.assert_allclose(points(drawn), posterior.mean.detach())


def test_draws_have_their_moments():
    draws = torch.randn(4, 25, ROWS, 2, dtype=torch.float64) * torch.rand(ROWS, 2) + 3
    rows = draws.flatten(0, 1).transpose(0, 1)
    covariance = torch.stack([torch.cov(row.T) for row in rows])
    ax = plot_latents(draws)
    np.testing.assert_allclose(points(ax), rows.mean(1))
    by_hand = ellipses(plot_latents(rows.mean(1), covariance))
    np.testing.assert_allclose(ellipses(ax).get_widths(), by_hand.get_widths())


def test_container_brings_draws():
    y = torch.poisson(torch.full((8, 5), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
    idata = pef.align(pef.to_arviz(model, pef.LaplaceGuide(model), y, num_samples=50))
    ax = plot_latents(idata)
    mean = idata["posterior"]["z"].mean(("chain", "draw"))
    np.testing.assert_allclose(points(ax), mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"variable must be one of .*'z'.* got 'x'"):
        plot_latents(idata, variable="x")


def test_names_become_colours_and_a_legend(z, covariance):
    labels = ["b", "a", "b", "c", "a", "b"]
    ax = plot_latents(z, covariance, labels=labels)
    handles, names = ax.get_legend_handles_labels()
    assert names == ["a", "b", "c"]
    colours = dict(zip(names, (h.get_facecolor()[0, :3] for h in handles), strict=True))
    for colour, label in zip(ellipses(ax).get_facecolor(), labels, strict=True):
        np.testing.assert_allclose(colour[:3], colours[label])
    assert len({tuple(colour) for colour in colours.values()}) == 3


def test_every_one_of_many_names_has_its_colour():
    ax = plot_latents(torch.randn(30, 2), labels=torch.arange(30) % 15)
    handles, names = ax.get_legend_handles_labels()
    assert names == [str(name) for name in range(15)]
    assert len({tuple(handle.get_facecolor()[0]) for handle in handles}) == 15


def test_numbers_become_a_colour_scale(z):
    values = np.linspace(-1, 4, ROWS)
    ax = plot_latents(z, labels=values)
    (scatter,) = ax.collections
    places = {float(x): value for x, value in zip(z[:, 0], values, strict=True)}
    wanted = [places[x] for x in scatter.get_offsets()[:, 0]]
    np.testing.assert_allclose(scatter.get_array(), wanted)
    assert len(ax.figure.axes) == 2


def test_a_new_figure_is_made_without_axes(z):
    assert plot_latents(z).figure is not plot_latents(z).figure
    assert len(plt.get_fignums()) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latents": torch.zeros(3)}, ValueError, r"latents must be of shape \(N, l\), got \(3,\)"),
        ({"latents": "abc"}, TypeError, "latents must hold real numbers, got str"),
        ({"covariance": torch.eye(3)}, ValueError, r"covariance must be of shape \(6, 3, 3\)"),
        ({"latents": torch.zeros(4, 6, 3), "covariance": 1}, ValueError, "covariance must be left"),
        ({"labels": ["a"]}, ValueError, r"labels must be of shape \(6,\), .* got \(1,\)"),
        ({"latents": torch.zeros(6, 1), "dims": (0, 1)}, ValueError, "dims must be .* got 1"),
        ({"dims": (1, 1)}, ValueError, "dims must be one or two different latents"),
        ({"dims": (0, -3)}, ValueError, "dims must be one or two different latents"),
        ({"dims": (0, 1, 2)}, ValueError, "dims must be one or two different latents"),
        ({"dims": ()}, ValueError, "dims must be one or two different latents"),
        ({"num_regions": -1}, ValueError, "num_regions must not be negative, got -1"),
        ({"dims": (0, 3)}, ValueError, "dims must be a position among 3, got 3"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1, got 1"),
    ],
)
def test_bad_arguments_are_named(z, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_latents(**{"latents": z, **arguments})


def test_names_of_groups_are_in_the_order_of_their_numbers():
    labels = [f"grp{k}" for k in (10, 2, 0, 1, 10, 11)]
    ax = plot_latents(np.random.default_rng(0).normal(size=(6, 2)), labels=labels)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["grp0", "grp1", "grp2", "grp10", "grp11"]
