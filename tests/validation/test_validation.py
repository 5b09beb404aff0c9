"""What docs/validation.md says."""

import pytest
import torch
from calibration import calibrate
from evidence_error import evidence_error
from nuts import compare_with_nuts
from probabilistic_pca import pca_error
from pyro_laplace import largest_difference
from simulations import (
    FEW_ANSWERS,
    FEW_SHARES,
    FURTHER_SETTINGS,
    OTHER_LOADINGS,
    OTHER_SETTINGS,
    RARE_EVENTS,
    SETTINGS,
)

GAUSSIAN = [setting for setting in SETTINGS if setting.family == "Gaussian"]


def name(setting):
    return f"{setting.family}-{setting.num_features}-{setting.latent_dim}-{setting.seed}"


@pytest.mark.parametrize("setting", GAUSSIAN, ids=name)
def test_gaussian_tables_are_those_of_probabilistic_pca(setting):
    error = pca_error(setting)
    assert error.evidence < 1e-13
    assert error.intercept < 1e-12
    assert error.loading < 1e-3
    assert 0 <= error.lost < 1e-6


def test_covariances_are_those_of_pyros_laplace_approximation():
    assert largest_difference() < 1e-10


@pytest.mark.slow
def test_loading_intercept_and_latents_agree_with_nuts():
    torch.set_default_dtype(torch.float64)
    for distance in compare_with_nuts().values():
        assert distance.mean <= 0.3
        assert distance.sd <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*SETTINGS, *OTHER_SETTINGS, *FURTHER_SETTINGS], ids=name)
def test_posteriors_of_second_order_are_calibrated(setting):
    calibration = calibrate(setting)["second-order mean and covariance"]
    assert calibration.p_value > 0.01
    assert 0.88 < calibration.coverage < 0.92


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*SETTINGS, *OTHER_LOADINGS], ids=name)
def test_evidence_agrees_with_importance_sampling(setting):
    error = evidence_error(setting)
    assert error.first < 0.07
    assert error.second < 0.007 + error.standard_error
    if setting.family == "Gaussian":
        assert error.first < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*OTHER_SETTINGS, *FURTHER_SETTINGS], ids=name)
def test_evidence_of_other_laws_agrees_with_importance_sampling(setting):
    error = evidence_error(setting)
    # Zeros under the complementary log-log link have a skewed likelihood, and so have categories.
    assert error.first < 0.08
    assert error.second < 0.03 + error.standard_error
    assert error.second < 0.75 * error.first + error.standard_error


@pytest.mark.parametrize("setting", [*OTHER_SETTINGS, *FURTHER_SETTINGS][::4], ids=name)
def test_a_few_rows_of_other_laws_are_calibrated(setting):
    calibration = calibrate(setting, num_rows=400)["second-order mean and covariance"]
    assert calibration.p_value > 0.001
    assert 0.85 < calibration.coverage < 0.95


def test_the_pareto_diagnostic_flags_what_is_far_from_normal():
    assert evidence_error(RARE_EVENTS, num_rows=40).unreliable > 0.1
    assert evidence_error(SETTINGS[0], num_rows=40).unreliable == 0


def test_few_columns_are_beyond_the_normal():
    answers = calibrate(FEW_ANSWERS)["second-order mean and covariance"]
    assert answers.p_value < 1e-3
    assert evidence_error(FEW_ANSWERS, num_rows=40).unreliable > 0.05
    assert calibrate(FEW_SHARES)["Laplace"].coverage < 0.85
