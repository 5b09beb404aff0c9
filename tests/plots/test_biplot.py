"""Latents as points and loadings as arrows."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from matplotlib.text import Annotation
from whole_models import Data, PartOfTheRows

import pyro_expfam as pef
from pyro_expfam.plots import plot_biplot

ROWS, FEATURES, LATENTS = 30, 12, 3


@pytest.fixture
def z():
    return torch.randn(ROWS, LATENTS, dtype=torch.float64)


@pytest.fixture
def W():
    return torch.randn(FEATURES, LATENTS, dtype=torch.float64)


def points(ax):
    drawn = [np.asarray(c.get_offsets()) for c in ax.collections]
    return np.concatenate([offsets for offsets in drawn if len(offsets)])


def names_and_ends(ax):
    names = [text for text in ax.texts if text.get_text()]
    return [text.get_text() for text in names], np.array([text.xy for text in names])


def arrows(ax):
    found = [text for text in ax.texts if isinstance(text, Annotation) and text.arrow_patch]
    return np.array([text.xy for text in found])


def test_rows_are_points_and_the_longest_loadings_arrows_of_one_scale(z, W, ax):
    assert plot_biplot(z, W, dims=(2, 0), num_arrows=5, ax=ax) is ax
    np.testing.assert_allclose(points(ax), z[:, [2, 0]])
    chosen = W[:, [2, 0]]
    order = chosen.norm(dim=1).argsort(descending=True)[:5]
    names, ends = names_and_ends(ax)
    assert names == [str(int(feature)) for feature in order]
    np.testing.assert_allclose(ends, arrows(ax))
    scale = ends / chosen[order].numpy()
    np.testing.assert_allclose(scale, scale[0, 0])
    assert np.linalg.norm(ends[0]) == pytest.approx(0.9 * float(z[:, [2, 0]].norm(dim=1).max()))
    assert ax.get_title() == f"Latents, and the 5 longest of 12 loadings (scale {scale[0, 0]:.2g})"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 2", "latent 0")
    assert ax.get_aspect() == 1


@pytest.mark.parametrize("own_figure", [True, False])
def test_names_are_within_the_axes_and_apart(z, W, own_figure, ax):
    names = [f"feature of row {row}" for row in range(FEATURES)]
    W[:, 1] *= 0.2
    ax = plot_biplot(z, W, names=names, num_arrows=6, ax=None if own_figure else ax)
    ax.figure.draw_without_rendering()
    extents = [text.get_window_extent() for text in ax.texts if text.get_text()]
    inside = ax.get_window_extent().padded(2)
    for extent in extents:
        assert inside.x0 <= extent.x0
        assert extent.x1 <= inside.x1
        assert inside.y0 <= extent.y0
        assert extent.y1 <= inside.y1
    # Text has room around it that it does not use.
    crowded = [a.padded(-2).overlaps(b.padded(-2)) for a, b in itertools.combinations(extents, 2)]
    assert not any(crowded)


def test_axes_are_those_of_rows_and_arrows():
    rng = np.random.default_rng(0)
    z, W = rng.normal(size=(178, 2)), rng.normal(size=(13, 2))
    names = [f"a name of some length {k}" for k in range(13)]
    ax = plot_biplot(z, W, names=names)
    assert max(np.abs([*ax.get_xlim(), *ax.get_ylim()])) < 2 * np.abs(z).max()
    ax.figure.draw_without_rendering()
    extents = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert len(extents) == 8
    assert not any(a.overlaps(b) for a, b in itertools.combinations(extents, 2))


def test_container_brings_both_and_names():
    y = torch.poisson(torch.full((8, 5), 2.0))
    frame = pd.DataFrame(y.numpy(), columns=list("pqrst"))
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(frame)
    idata = pef.align(pef.to_arviz(model, guide, frame, num_samples=50))
    ax = plot_biplot(idata, labels=list("aabbaabb"))
    mean = idata["posterior"]["z"].mean(("chain", "draw"))
    np.testing.assert_allclose(np.sort(points(ax), 0), np.sort(mean, 0), rtol=1e-5, atol=1e-6)
    assert set(names_and_ends(ax)[0]) == set("pqrst")
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]
    with pytest.raises(ValueError, match=r"variable must be one of .* got 'genes.loading'"):
        plot_biplot(idata, variable="genes.z")


def test_a_loading_of_zero_has_no_arrow(z):
    W = torch.zeros(FEATURES, LATENTS)
    W[3, 0] = 1.0
    assert names_and_ends(plot_biplot(z, W))[0] == ["3"]
    assert not len(arrows(plot_biplot(z, torch.zeros(FEATURES, LATENTS))))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"loading": None},
            TypeError,
            "loading must be given if latents is not .* Tensor alone",
        ),
        ({"loading": torch.zeros(4, 2)}, ValueError, r"loading must be of shape \(..., d, 3\)"),
        ({"dims": (0,)}, ValueError, "dims must be two different latents"),
        ({"dims": (0, 3)}, ValueError, "dims must be a position among 3, got 3"),
        ({"names": ["a"]}, ValueError, "names must be one for each of 12 features, got 1"),
        ({"num_arrows": 0}, ValueError, "num_arrows must be at least 1, got 0"),
        ({"labels": ["a"]}, ValueError, r"labels must be of shape \(30,\)"),
    ],
)
def test_bad_arguments_are_named(z, W, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_biplot(**{"latents": z, "loading": W, **arguments})


def test_a_table_that_shares_latents_has_the_latents_of_their_block():
    pyro.set_rng_seed(0)
    model, args = PartOfTheRows(), Data(torch.float32).args
    guide = pef.LaplaceGuide(model)
    guide(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        idata = pef.to_arviz(model, guide, *args, num_samples=5, groups=["posterior"])
    shared, own = (plot_biplot(idata, variable=f"{name}.z") for name in ("protein", "rna"))
    np.testing.assert_array_equal(points(shared), points(own))
    assert len(arrows(shared)) == 5
    with pytest.raises(ValueError, match="variable must be one of the group posterior"):
        plot_biplot(idata, variable="other.z")
