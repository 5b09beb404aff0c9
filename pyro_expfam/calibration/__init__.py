"""Simulation-based calibration: whether posteriors hold the truth as often as they say."""

from pyro_expfam.calibration.ranks import Calibration
from pyro_expfam.calibration.simulations import latent_calibration, simulation_based_calibration

__all__ = ["Calibration", "latent_calibration", "simulation_based_calibration"]
