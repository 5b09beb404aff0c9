"""What docs/validation.md says of the posteriors of latents."""

import pytest
from calibration import calibrate
from evidence_error import evidence_error
from simulations import RARE_EVENTS, SETTINGS


def name(setting):
    return f"{setting.family}-{setting.num_features}-{setting.latent_dim}"


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=name)
def test_posteriors_of_second_order_are_calibrated(setting):
    calibration = calibrate(setting)["second-order mean and covariance"]
    assert calibration.p_value > 0.01
    assert 0.88 < calibration.coverage < 0.92


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=name)
def test_evidence_agrees_with_importance_sampling(setting):
    error = evidence_error(setting)
    assert error.first < 0.07
    assert error.second < 0.007 + error.standard_error
    if setting.family == "Gaussian":
        assert error.first < 1e-8


def test_the_pareto_diagnostic_flags_what_is_far_from_normal():
    assert evidence_error(RARE_EVENTS, num_rows=40).unreliable > 0.1
    assert evidence_error(SETTINGS[0], num_rows=40).unreliable == 0
