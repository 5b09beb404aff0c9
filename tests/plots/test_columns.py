"""Columns against their posterior predictions."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray

import pyro_expfam as pef
from pyro_expfam.diagnostics.container import datasets
from pyro_expfam.plots.columns import _ranks, _shares
from pyro_expfam.plots.containers import categories_of

mpl.use("Agg")


def container(y, draws):
    """What ``to_arviz`` has of observations and their draws."""
    dims = ("y_row", "y_feature")
    coords = {"y_feature": [f"c{k}" for k in range(y.shape[1])]}
    observed = xarray.Dataset({"y": xarray.DataArray(y, dims=dims, coords=coords)})
    drawn = xarray.DataArray(draws[None], dims=("chain", "draw", *dims), coords=coords)
    return xarray.DataTree.from_dict(
        {"observed_data": observed, "posterior_predictive": xarray.Dataset({"y": drawn})}
    )


def counts(rates, rows=400, draws=60):
    random = np.random.default_rng(0)
    y = np.stack([random.poisson(rate, rows) for rate in rates], 1).astype(float)
    return y, random.poisson(np.full((draws, rows, len(rates)), 3.0)).astype(float)


def test_the_columns_that_fit_worst_come_first():
    y, draws = counts([3.0, 6.0, 3.0])
    for plot in (pef.plots.plot_columns, pef.plots.plot_residuals):
        figure = plot(container(y, draws), num_columns=2)
        assert figure.axes[0].get_title() == "c1"
        assert len(figure.axes) == 2


def test_shares_are_those_of_the_values():
    y, draws = counts([3.0])
    labels, observed, drawn = _shares(y[:, 0], draws[..., 0])
    assert labels[0] == "0"
    np.testing.assert_allclose(observed[1], (y == 1).mean())
    np.testing.assert_allclose(drawn[:, 1], (draws[..., 0] == 1).mean(1))
    np.testing.assert_allclose(observed.sum(), 1)
    np.testing.assert_allclose(drawn.sum(1), 1)


def test_bins_of_counts_begin_at_whole_numbers_and_the_first_has_the_zeros():
    """More than a bin's share of zeros put the least value and an edge in one place."""
    random = np.random.default_rng(0)
    y = np.where(random.random(200) < 0.6, 0, random.integers(1, 60, 200)).astype(float)
    labels, observed, drawn = _shares(y, np.stack([y, 0 * y]))
    assert labels[0] == "0"
    assert observed[0] >= (y == 0).mean()
    assert (observed > 0).all()
    begins = [float(label) for label in labels]
    assert begins == sorted({round(x) for x in begins})
    expected = [((y >= a) & (y < b)).mean() for a, b in pairwise([*begins, np.inf])]
    np.testing.assert_allclose(observed, expected)
    np.testing.assert_allclose(drawn, [observed, np.eye(len(labels))[0]])


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_numbers_are_put_into_bins_of_equal_shares(scale):
    random = np.random.default_rng(1)
    y, draws = scale * random.normal(size=1000), scale * random.normal(size=(30, 1000))
    _, observed, drawn = _shares(y, draws)
    np.testing.assert_allclose(observed, 1 / 20, atol=0.002)
    np.testing.assert_allclose(drawn.mean(0), 1 / 20, atol=0.02)


def test_bins_of_thousands_have_no_powers_of_ten():
    y = np.linspace(2700, 6312, 300)[:, None]
    labels, _, _ = _shares(y[:, 0], np.stack([y[:, 0]] * 3))
    assert labels[0] == "2,700"
    assert not any("e" in label for label in labels)
    labels, _, _ = _shares(1e-7 * y[:, 0], np.stack([1e-7 * y[:, 0]] * 3))
    assert labels[0] == "0.00027"


def test_ranks_are_uniform_under_the_right_law_of_discrete_numbers():
    y, draws = counts([3.0], rows=4000)
    ranks = _ranks(y[:, 0], draws[..., 0], np.random.default_rng(2))
    assert ranks.min() >= 0
    assert ranks.max() <= 1
    np.testing.assert_allclose(np.quantile(ranks, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)


def test_missing_entries_are_left_out():
    y, draws = counts([3.0])
    y[:100] = np.nan
    assert len(_ranks(y[:, 0], draws[..., 0], np.random.default_rng(3))) == 300
    np.testing.assert_allclose(_shares(y[:, 0], draws[..., 0])[1].sum(), 1)


def test_columns_without_entries_are_left_out():
    y, draws = counts([3.0, 6.0, 3.0])
    bars = []
    for empty in (False, True):
        if empty:
            y[:, 2] = np.nan
        for plot in (pef.plots.plot_columns, pef.plots.plot_residuals):
            figure = plot(container(y, draws))
            titles = [ax.get_title() for ax in figure.axes]
            assert sorted(titles) == ["c0", "c1", "c2"][: 3 - empty]
            bars.append([x.get_height() for x in figure.axes[titles.index("c1")].patches])
            if empty:
                with pytest.raises(ValueError, match="have entries, got 2, missing in every row"):
                    plot(container(y, draws), columns=[2])
    assert bars[:2] == bars[2:]


def test_bad_arguments_are_refused():
    y, draws = counts([3.0])
    with pytest.raises(ValueError, match="columns must be from 0 to 0, got 5"):
        pef.plots.plot_columns(container(y, draws), columns=[5])
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        pef.plots.plot_residuals(container(y, draws), level=2)


def test_the_pictures_of_a_fit():
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(80, 1) @ torch.randn(1, 3)))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, 1))
    guide.fit(y)
    idata = pef.to_arviz(guide.model, guide, y, num_samples=40)
    assert len(pef.plots.plot_columns(idata, columns=[2]).axes) == 1
    assert len(pef.plots.plot_residuals(idata).axes) == 3


@pytest.mark.filterwarnings("ignore:no row has the answer")
def test_named_categories_have_their_names(tmp_path):
    pd = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "sex": pd.Categorical.from_codes(random.integers(0, 2, 90), ["female", "male"]),
            "answer": pd.Categorical.from_codes(
                random.integers(0, 3, 90), ["no", "maybe", "yes", "never seen"], ordered=True
            ),
            "island": pd.Categorical.from_codes(
                random.integers(0, 3, 90), ["Biscoe", "Dream", "T"]
            ),
            "weight": random.normal(size=90),
        }
    )
    family = pef.families.Columns.from_frame(frame)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=1))
    guide.fit(frame)
    idata = pef.to_arviz(guide.model, guide, frame, num_samples=40)
    figure = pef.plots.plot_columns(idata, columns=[0, 1, 2, 3])
    ticks = [[x.get_text() for x in ax.get_xticklabels()] for ax in figure.axes]
    assert ticks[:3] == [
        ["female", "male"],
        ["no", "maybe", "yes", "never seen"],
        list(frame["island"].cat.categories),
    ]
    assert not set(ticks[3]) & {"female", "no"}
    # Bars are the shares of the names, and the names are kept in a file.
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    shares = frame["answer"].value_counts(normalize=True, sort=False)
    np.testing.assert_allclose(heights, shares.to_numpy())
    dataset = datasets(idata)["observed_data"]
    dataset.to_netcdf(tmp_path / "table.nc")
    with xarray.open_dataset(tmp_path / "table.nc") as stored:
        assert categories_of(stored["y"]) == [
            *(list(frame[k].cat.categories) for k in ("sex", "answer", "island")),
            None,
        ]
