"""The picture of a base measure, or of what speaks against one."""

import matplotlib.colors as colors
import numpy as np
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.plots.style import VERMILLION

F = pef.families


def heights(ax):
    """The points of all markers, by colour."""
    return {
        colors.to_hex(line.get_color()).upper(): line.get_xydata()
        for line in ax.lines
        if line.get_marker() == "o"
    }


def test_masses_are_those_of_the_measure():
    ax = pef.plots.plot_admissibility(F.check_admissible(torch.exp))
    (drawn,) = (x for x in heights(ax).values() if len(x))
    factorials = np.cumprod([1.0, *range(1, len(drawn))])
    np.testing.assert_allclose(drawn[:, 1], np.exp(-1) / factorials, atol=1e-12)
    assert ax.get_title() == "Admissible as far as seen"
    assert ax.get_ylabel() == "mass"


def test_negative_masses_have_their_colour_and_the_number():
    with pytest.raises(F.NotAdmissibleError) as caught:
        F.from_activation(torch.nn.functional.softplus)
    ax = pef.plots.plot_admissibility(caught.value.found)
    negative = heights(ax)[VERMILLION.upper()]
    assert negative[0, 0] == 4
    assert (negative[:, 1] < 0).all()
    assert [text.get_text() for text in ax.texts] == [f"{negative[0, 1]:.2g} at 4"]
    assert ax.get_title().startswith("Not admissible")


def test_a_density_is_a_line_and_anything_else_shows_its_transform():
    ax = pef.plots.plot_admissibility(F.check_admissible(lambda r: r**2 / 2))
    y, density = ax.lines[0].get_xydata().T
    np.testing.assert_allclose(density, np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi), atol=1e-10)
    ax.clear()
    pef.plots.plot_admissibility(F.check_admissible(lambda r: r**4), ax=ax)
    assert ax.get_ylabel() == "size of the transform"
    assert np.nanmax(ax.lines[0].get_ydata()) > 1
    with pytest.raises(TypeError, match=r"found must come from .*check_admissible, got str"):
        pef.plots.plot_admissibility("exp")
