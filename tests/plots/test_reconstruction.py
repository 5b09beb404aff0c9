"""Observations against predictions."""

import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import same_color

import pyro_expfam as pef
from pyro_expfam.plots import plot_reconstruction
from pyro_expfam.plots.style import RED, VERMILLION

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
    low, high = np.quantile(samples, [0.1, 0.9], axis=0, method="weibull")
    np.testing.assert_allclose(bars(ax), np.stack([samples.mean(0), low, high], -1))
    inside, outside = points(ax)
    value = y.flatten().numpy()
    kept = (low <= value) & (value <= high)
    np.testing.assert_allclose(inside, np.stack([samples.mean(0), value], -1)[kept])
    np.testing.assert_allclose(outside, np.stack([samples.mean(0), value], -1)[~kept])
    assert ax.get_title().startswith(f"{kept.sum()} of 24 entries in 80% intervals")


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
    assert not same_color(ax.title.get_color(), RED)


def test_the_title_is_red_where_too_few_are_inside():
    y = torch.randn(40, 50)
    narrow = plot_reconstruction(y, 0.7 * torch.randn(400, 40, 50))
    assert same_color(narrow.title.get_color(), RED)
    assert "(7" in narrow.get_title()
    # Fewer than chance explains, or by too little to matter.
    few = plot_reconstruction(
        y[:1, :5] * 0 + torch.tensor([9.0, 0, 0, 0, 0]), torch.randn(400, 1, 5)
    )
    assert not same_color(few.title.get_color(), RED)
    slightly = plot_reconstruction(torch.randn(200, 100), 0.95 * torch.randn(100, 200, 100))
    assert not same_color(slightly.title.get_color(), RED)


def test_many_entries_are_a_density_of_all_that_are_inside():
    y, draws = torch.randn(100, 80), 0.8 * torch.randn(50, 100, 80)
    ax = plot_reconstruction(y, draws)
    (density,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    low, high = np.quantile(draws.numpy(), [0.05, 0.95], axis=0, method="weibull")
    inside = (low <= y.numpy()) & (y.numpy() <= high)
    assert density.get_array().sum() == inside.sum()
    (outside,) = (c for c in ax.collections if isinstance(c, PathCollection))
    assert len(outside.get_offsets()) == (~inside).sum()
    assert ax.get_title().startswith(f"{inside.sum():,} of 8,000 entries")


@pytest.mark.parametrize(("rate", "scale"), [(2.0, "linear"), (200.0, "symlog")])
def test_large_counts_have_logarithmic_axes(rate, scale):
    rates = rate * torch.rand(60, 80)
    ax = plot_reconstruction(torch.poisson(rates), torch.poisson(rates.expand(50, 60, 80)))
    assert (ax.get_xscale(), ax.get_yscale()) == (scale, scale)
    assert not same_color(ax.title.get_color(), RED)


def test_large_counts_far_from_zero_have_linear_axes_around_them():
    rates = torch.full((60, 80), 200.0)
    ax = plot_reconstruction(torch.poisson(rates), torch.poisson(rates.expand(50, 60, 80)))
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
    assert ax.get_xlim()[0] > 100
    assert ax.get_ylim()[0] > 100


def test_counts_of_the_truth_have_the_coverage_of_their_level():
    # Closed intervals of small counts would hold far more than their level.
    rates = torch.full((60, 80), 0.7)
    ax = plot_reconstruction(torch.poisson(rates), torch.poisson(rates.expand(99, 60, 80)))
    share = int(ax.get_title().split(" of ")[0].replace(",", "")) / 4800
    assert share == pytest.approx(0.9, abs=0.02)
    assert not same_color(ax.title.get_color(), RED)


def test_counts_with_too_much_variance_have_a_red_title():
    rates = torch.full((60, 80), 0.7)
    heavy = rates * torch.distributions.Gamma(0.7, 0.7).sample(rates.shape)
    y, draws = torch.poisson(heavy), torch.poisson(rates.expand(99, 60, 80))
    low, high = np.quantile(draws.numpy(), [0.05, 0.95], axis=0)
    # The closed intervals would hide it.
    assert ((low <= y.numpy()) & (y.numpy() <= high)).mean() > 0.87
    first, second = plot_reconstruction(y, draws), plot_reconstruction(y, draws)
    assert same_color(first.title.get_color(), RED)
    assert first.get_title() == second.get_title()


def test_few_draws_of_the_truth_are_no_failure():
    ax = plot_reconstruction(torch.randn(60, 80), torch.randn(19, 60, 80))
    assert not same_color(ax.title.get_color(), RED)


def test_axes_of_large_counts_end_where_observations_do():
    y, draws = torch.poisson(torch.full((30, 10), 900.0)), torch.full((50, 30, 10), 900.0)
    draws[0, 0, 0] = 1e16
    ax = plot_reconstruction(y, torch.poisson(draws))
    assert ax.get_xlim()[1] < 1e4
    assert ax.get_ylim()[1] < 1e4
    assert ax.get_xlabel() == "posterior predictive mean (1 beyond the axis)"


def test_ticks_of_very_large_counts_are_apart(ax):
    y = torch.poisson(10 ** torch.linspace(0, 14, 300, dtype=torch.float64))[:, None]
    plot_reconstruction(y, y.expand(20, -1, -1), ax=ax)
    assert len(ax.xaxis.get_majorticklocs()) <= 8


class TestBits:
    """Tables of zeros and ones, or of signs."""

    @pytest.fixture
    def probability(self):
        return torch.rand(60, 40)

    @staticmethod
    def bins(ax):
        (shares,) = (c for c in ax.collections if isinstance(c, PathCollection))
        return np.asarray(shares.get_offsets()).T, shares.get_facecolor()

    @pytest.mark.parametrize("low", [0, -1])
    def test_shares_are_by_predicted_probability(self, probability, low, ax):
        y = torch.bernoulli(probability) * (1 - low) + low
        draws = torch.bernoulli(probability.expand(197, 60, 40)) * (1 - low) + low
        plot_reconstruction(y, draws, ax=ax)
        predicted = (draws == 1).double().mean(0).numpy()
        (x, share), _ = self.bins(ax)
        for place, lower in enumerate(np.arange(10) / 10):
            inside = (predicted >= lower) & ((predicted < lower + 0.1) | (place == 9))
            assert x[place] == pytest.approx(predicted[inside].mean())
            assert share[place] == pytest.approx(float((y.numpy() == 1)[inside].mean()))
        assert not same_color(ax.title.get_color(), RED)

    def test_intervals_are_binomial(self, probability):
        draws = torch.bernoulli(probability.expand(200, 60, 40))
        ax = plot_reconstruction(torch.bernoulli(probability), draws, level=0.8)
        (bands,) = (c for c in ax.collections if isinstance(c, LineCollection))
        (x, _), _ = self.bins(ax)
        sizes = [int(text.get_text().replace(",", "")) for text in ax.texts]
        assert sum(sizes) == 2400
        for segment, size, mean in zip(bands.get_segments(), sizes, x, strict=True):
            wanted = np.array(scipy.stats.binom.interval(0.8, size, mean)) / size
            np.testing.assert_allclose(segment[:, 1], wanted)

    def test_wrong_probabilities_stand_out(self, probability):
        wrong = 0.5 + 0.4 * (probability - 0.5)
        draws = torch.bernoulli(wrong.expand(200, 60, 40))
        ax = plot_reconstruction(torch.bernoulli(probability), draws)
        assert same_color(ax.title.get_color(), RED)
        (x, share), colours = self.bins(ax)
        far = np.abs(x - share) > 0.1
        assert far.sum() >= 4
        assert all(same_color(colour, VERMILLION) for colour in colours[far])

    def test_few_bits_have_a_picture(self):
        y = torch.tensor([[0.0, 1.0]])
        ax = plot_reconstruction(y, torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]]))
        assert ax.get_title().startswith("2 of 2 shares of ones are where")


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
    predicted = predicted[np.isfinite(predicted)]
    assert len(predicted) == 24 - missing
    np.testing.assert_allclose(bars(ax)[:, 0], predicted, rtol=1e-6)
    assert len(bars(plot_reconstruction(idata, rows=[0]))) == 4 - missing
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
        (
            {"observed": torch.zeros(4), "predictive": torch.zeros(9, 4), "rows": [0]},
            ValueError,
            r"rows must be left out if .* shape \(4,\)",
        ),
        ({"observed": torch.full((6, 4), torch.nan)}, ValueError, "observed must have an entry"),
        ({"level": 2}, ValueError, "level must be between 0 and 1, got 2"),
    ],
)
def test_bad_arguments_are_named(y, draws, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_reconstruction(**{"observed": y, "predictive": draws, **arguments})


def test_categories_are_drawn_as_shares_of_levels():
    probability = torch.rand(40, 30, 4).softmax(-1).square()
    law = torch.distributions.Categorical(probs=probability)
    y, draws = law.sample().double(), law.sample((300,)).double()
    ax = plot_reconstruction(y, draws, levels=4)
    assert ax.get_xlabel() == "predicted probability of a level"
    assert ax.get_ylabel() == "observed share of levels"
    # Every entry has one level, and shares stand where the draws say.
    (shown,) = (c for c in ax.collections if isinstance(c, PathCollection))
    predicted, share = np.asarray(shown.get_offsets()).T
    assert np.abs(predicted - share).max() < 0.1
    sizes = [int(text.get_text().replace(",", "")) for text in ax.texts]
    assert sum(sizes) == 4 * y.numel()
    assert np.average(share, weights=sizes) == pytest.approx(0.25)
    assert not same_color(ax.title.get_color(), RED)


def test_categories_that_are_less_certain_than_predictions_are_red():
    y = torch.randint(3, (40, 30)).double()
    draws = torch.where(
        torch.rand(200, 40, 30) < 0.8, 0.0, torch.randint(3, (200, 40, 30)).double()
    )
    ax = plot_reconstruction(y, draws, levels=3)
    assert same_color(ax.title.get_color(), RED)
