"""Fits as chains of one container."""

import arviz as az
import numpy as np
import pytest
import torch

import pyro_expfam as pef


def fit(seed, y, num_samples=20, **settings):
    torch.manual_seed(seed)
    model = pef.ExpFamPCA(pef.families.Poisson(), y.shape[-1], 2)
    guide = pef.LaplaceGuide(model)
    return pef.to_arviz(model, guide, y, num_samples=num_samples, **settings)


@pytest.fixture(scope="module")
def y():
    return torch.poisson(torch.full((12, 5), 2.0))


@pytest.fixture(scope="module")
def fits(y):
    return [fit(seed, y) for seed in range(3)]


def test_draws_are_those_of_the_fits_in_order(fits):
    joined = pef.concat_chains(fits)
    assert type(joined) is type(fits[0])
    for group in ("posterior", "posterior_predictive", "prior", "log_likelihood"):
        for name, values in joined[group].data_vars.items():
            parts = [fit[group][name].values for fit in fits]
            np.testing.assert_array_equal(values.values, np.concatenate(parts))
    assert joined["posterior"]["chain"].values.tolist() == [0, 1, 2]


def test_likelihoods_of_rows_and_convergence_are_by_chain(fits):
    joined = pef.concat_chains(fits)
    assert joined["log_likelihood"]["y_row"].dims == ("chain", "draw", "row")
    assert joined["sample_stats"]["residual"].dims == ("chain", "row")
    np.testing.assert_array_equal(
        joined["sample_stats"]["residual"].values[2], fits[2]["sample_stats"]["residual"].values
    )


def test_data_are_there_once(fits):
    joined = pef.concat_chains(fits)
    assert joined["observed_data"].equals(fits[0]["observed_data"])


def test_chains_of_chains(fits):
    joined = pef.concat_chains([pef.concat_chains(fits[:2]), fits[2]])
    assert joined["posterior"].equals(pef.concat_chains(fits)["posterior"])


def test_arviz_takes_and_saves_the_result(fits, tmp_path):
    joined = pef.concat_chains(fits)
    joined.to_netcdf(tmp_path / "fits.nc")
    again = az.from_netcdf(tmp_path / "fits.nc")
    np.testing.assert_array_equal(again["posterior"]["z"].values, joined["posterior"]["z"].values)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda y: fit(0, y, num_samples=10), "the same draws and labels in "),
        (lambda y: fit(0, y, coords={"feature": list("abcde")}), "same draws and labels in "),
        (lambda y: fit(0, y + 1), "containers must be of the same observed_data"),
        (lambda y: fit(0, y, dims={"loading": ["i", "j"]}), "the same variables in posterior"),
    ],
)
def test_fits_that_differ_are_refused(fits, y, other, message):
    with pytest.raises(ValueError, match=message):
        pef.concat_chains([fits[0], other(y)])


def test_bad_arguments_are_named(fits):
    with pytest.raises(ValueError, match="containers must be one or more, got none"):
        pef.concat_chains([])
    with pytest.raises(TypeError, match=r"must be an InferenceData or a DataTree .* got Tensor"):
        pef.concat_chains([torch.zeros(2)])
