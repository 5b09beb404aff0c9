"""The plane of two latents: points, regions and colours."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Ellipse

import pyro_expfam as pef
from pyro_expfam.plots import plot_latents

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
    return np.concatenate([c.get_offsets() for c in drawn])


def test_points_are_two_of_the_latents(z, ax):
    assert plot_latents(z, dims=(0, 2), ax=ax) is ax
    np.testing.assert_allclose(points(ax), z[:, [0, 2]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 1", "latent 3")
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
    drawn = ellipses(plot_latents(torch.zeros(rows, 2), torch.eye(2).expand(rows, 2, 2)))
    opacity = drawn.get_facecolor()[:, 3]
    assert 0.1 < 1 - np.prod(1 - opacity) < 0.9


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
    np.testing.assert_allclose(scatter.get_array(), values)
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
        ({"latents": torch.zeros(6, 1)}, ValueError, "latents must have at least two .* got 1"),
        ({"dims": (1, 1)}, ValueError, "dims must be two different latents"),
        ({"dims": (0, -3)}, ValueError, "dims must be two different latents"),
        ({"dims": (0, 1, 2)}, ValueError, "dims must be two different latents"),
        ({"dims": (0, 3)}, ValueError, "dims must be a position among 3, got 3"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1, got 1"),
    ],
)
def test_bad_arguments_are_named(z, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_latents(**{"latents": z, **arguments})
