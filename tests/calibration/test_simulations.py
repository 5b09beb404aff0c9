"""Simulation-based calibration, its ranks and its band."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.calibration import Calibration
from pyro_expfam.plots.ecdf import band, is_uniform

mpl.use("Agg")
F = pef.families


def uniform_ranks(size=400, num_draws=99, seed=0):
    return np.random.default_rng(seed).integers(0, num_draws + 1, size)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_uniform_ranks_stay_in_the_band_as_often_as_it_says(level):
    random = np.random.default_rng(1)
    points = np.arange(0, 99, 2)
    low, high = band(100, points, 99, level)
    found = (random.integers(0, 100, (4000, 100))[..., None] <= points).mean(1)
    inside = ((low <= found) & (found <= high)).all(1).mean()
    assert inside == pytest.approx(level, abs=0.04)


@pytest.mark.parametrize("change", [lambda u: u**1.4, lambda u: 0.5 + (u - 0.5) * 0.7])
def test_ranks_that_are_not_uniform_leave_the_band(change):
    random = np.random.default_rng(2)
    ranks = (100 * change(random.random(1000))).astype(int)
    assert not is_uniform(ranks, 99)
    assert is_uniform(uniform_ranks(1000), 99)


def test_the_table_has_coverage_and_names():
    found = Calibration({"a": uniform_ranks(2000), "b": uniform_ranks((2000, 2))}, 99, 3)
    table = found.table
    assert list(table.index) == ["a", "b[0]", "b[1]"]
    np.testing.assert_allclose(table["90%"], 0.9, atol=0.03)
    np.testing.assert_allclose(table["50%"], 0.5, atol=0.04)
    np.testing.assert_allclose(table["mean"], 0.5, atol=0.03)
    assert "2000 simulations of 99 draws, 3 left out" in str(found)


def test_pictures_and_the_container_have_every_variable():
    found = Calibration({"a": uniform_ranks(50), "b": uniform_ranks((50, 2))}, 99)
    assert [ax.get_title() for ax in found.plot().axes] == ["a", "b[0]", "b[1]"]
    posterior = found.to_arviz()["posterior"]
    assert posterior["a"].shape == (1, 50)
    assert posterior["b"].shape == (1, 50, 2)
    assert float(posterior["a"].max()) <= 1


def test_posteriors_of_a_gaussian_model_are_calibrated():
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Gaussian(1.0), 6, 2))
    guide.fit(torch.randn(100, 2) @ torch.randn(2, 6) + torch.randn(100, 6))
    table = pef.latent_calibration(guide, num_rows=3000).table
    np.testing.assert_allclose(table["90%"], 0.9, atol=0.02)
    assert table["uniform"].all()


def test_posteriors_that_are_too_narrow_are_found():
    torch.manual_seed(0)
    model = pef.ExpFamPCA(F.Gaussian(1.0), 6, 1)
    guide = pef.LaplaceGuide(model)
    guide.fit(2 * torch.randn(100, 1) @ torch.ones(1, 6) + torch.randn(100, 6))
    narrow = pef.LaplaceGuide.latent_distribution

    def halved(self, problem, solution):
        found = narrow(self, problem, solution)
        return type(found)(found.mean, 2 * torch.linalg.cholesky(found.precision_matrix))

    patched = pytest.MonkeyPatch()
    with patched.context() as context:
        context.setattr(pef.LaplaceGuide, "latent_distribution", halved)
        table = pef.latent_calibration(guide, num_rows=500).table
    assert float(table["90%"].iloc[0]) < 0.75
    assert not table["uniform"].iloc[0]


@pytest.mark.slow
def test_ranks_of_a_whole_fit_are_near_uniform():
    model = pef.ExpFamPCA(F.Gaussian(1.0), 5, 1, loading_scale=1.0, intercept_scale=1.0)
    found = pef.simulation_based_calibration(model, 60, num_simulations=10, num_draws=19)
    assert {name: x.shape for name, x in found.ranks.items()} == {
        "intercept": (10, 5),
        "length": (10, 5),
        "predictor": (10, 5),
        "log_likelihood": (10,),
    }
    assert found.table["mean"].mean() == pytest.approx(0.5, abs=0.1)
    assert found.table["90%"].mean() > 0.8


def test_point_estimates_of_coefficients_are_not_calibrated():
    model = pef.ExpFamPCA(F.Gaussian(1.0), 5, 1, loading_scale=1.0, intercept_scale=1.0)
    found = pef.simulation_based_calibration(model, 60, pef.LaplaceGuide, 4, num_draws=19)
    # A point has no draws beside itself: the truth is below or above all of them.
    assert set(found.ranks["length"].ravel()) <= {0, 19}


def test_runs_are_repeated_by_their_seed_and_leave_random_numbers_alone():
    model = pef.ExpFamPCA(F.Bernoulli(), 4, 1, intercept_scale=1.0)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = pef.simulation_based_calibration(model, 30, num_simulations=2, num_draws=5, seed=3)
    assert torch.equal(torch.rand(2), expected)
    again = pef.simulation_based_calibration(model, 30, num_simulations=2, num_draws=5, seed=3)
    np.testing.assert_array_equal(first.ranks["length"], again.ranks["length"])


@pytest.mark.slow
@pytest.mark.parametrize("family", [F.Poisson(), F.Bernoulli()], ids=str)
def test_the_posterior_of_coefficients_is_calibrated(family):
    model = pef.ExpFamPCA(family, 10, 2, intercept_scale=1.0, loading_scale=0.7)
    found = pef.simulation_based_calibration(model, 150, num_simulations=100, num_draws=49)
    table = found.table
    for name in ("intercept", "length", "predictor"):
        rows = table[table.index.str.startswith(name)]
        assert rows["90%"].mean() > 0.85, name
    assert found.num_failed < 5


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="loading of the block must have a prior"):
        pef.simulation_based_calibration(pef.ExpFamPCA(F.Poisson(), 3, 1, loading_scale=None), 10)
    with pytest.raises(TypeError, match="model must be a block"):
        pef.simulation_based_calibration(F.Poisson(), 10)
    with pytest.raises(ValueError, match="num_rows"):
        pef.simulation_based_calibration(pef.ExpFamPCA(F.Poisson(), 3, 1), 0)
    with pytest.raises(ValueError, match="ranks must be integers from 0 to 9"):
        pef.plots.plot_ecdf([1, 12], num_draws=9)


def test_tables_with_covariates_and_row_effects_are_simulated():
    x = torch.randn(40, 2)
    settings = {"intercept_scale": 1.0, "num_covariates": 2, "coefficient_scale": 0.5}
    model = pef.ExpFamPCA(F.Bernoulli(), 4, 1, row_effect="random", **settings)
    found = pef.simulation_based_calibration(
        model, 40, num_simulations=3, num_draws=9, covariates=x
    )
    assert found.ranks["coefficients"].shape == (3, 8)
    assert found.ranks["row_effect"].shape == (3,)
    guide = pef.LaplaceGuide(model)
    guide.fit(torch.bernoulli(torch.full((40, 4), 0.5)), covariates=x)
    of_latents = pef.latent_calibration(guide, 40, num_draws=9, covariates=x)
    assert of_latents.ranks["z"].shape == (40, 2)
    with pytest.raises(ValueError, match="no law to be drawn from"):
        pef.simulation_based_calibration(pef.ExpFamPCA(F.Poisson(), 3, 1, row_effect="fixed"), 10)


def test_row_effects_of_a_gaussian_model_are_calibrated():
    x = torch.randn(400, 1)
    settings = {"num_covariates": 1, "row_effect": "random", "row_effect_scale": 2.0}
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Gaussian(1.0), 6, 1, **settings))
    eta = torch.randn(400, 1) @ torch.randn(1, 6) + 2 * torch.randn(400, 1) + x
    guide.fit(eta + torch.randn(400, 6), covariates=x)
    x = torch.randn(3000, 1)
    table = pef.latent_calibration(guide, 3000, covariates=x).table
    np.testing.assert_allclose(table["90%"], 0.9, atol=0.02)
    assert table["uniform"].all()
