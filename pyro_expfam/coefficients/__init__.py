"""Inference for loading and intercept from a table: information, maximum and posterior."""

from pyro_expfam.coefficients.covariance import CoefficientCovariance
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.coefficients.higher_order import second_order_posterior
from pyro_expfam.coefficients.information import (
    evidence_information,
    information_by_feature,
    profile_information,
)
from pyro_expfam.coefficients.information_gradient import weighted_information_gradient
from pyro_expfam.coefficients.joint_posterior import JointPosterior, maximise_with_parameters
from pyro_expfam.coefficients.learnt_noise import learn_noise_scale, scale_of, with_scale
from pyro_expfam.coefficients.loading_scale import LearntScale, learn_loading_scale
from pyro_expfam.coefficients.maximum import maximise_evidence
from pyro_expfam.coefficients.parameter_posterior import ParameterPosterior, parameter_posterior
from pyro_expfam.coefficients.posterior import (
    CoefficientPosterior,
    coefficient_posterior,
    posterior_at_maximum,
)
from pyro_expfam.coefficients.rotations import gauge_directions, log_orbit_volume

__all__ = [
    "CoefficientCovariance",
    "CoefficientPosterior",
    "EvidenceProblem",
    "JointPosterior",
    "LearntScale",
    "ParameterPosterior",
    "coefficient_posterior",
    "evidence_information",
    "gauge_directions",
    "information_by_feature",
    "learn_loading_scale",
    "learn_noise_scale",
    "log_orbit_volume",
    "maximise_evidence",
    "maximise_with_parameters",
    "parameter_posterior",
    "posterior_at_maximum",
    "profile_information",
    "scale_of",
    "second_order_posterior",
    "weighted_information_gradient",
    "with_scale",
]
