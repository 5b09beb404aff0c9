"""Simulation-based calibration of the posteriors of latents (Talts et al., 2018)."""

from typing import NamedTuple

import torch
from scipy import stats
from simulations import Setting, simulate
from torch import Tensor

from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import second_order_covariance, second_order_mean

NUM_ROWS = 2_000
NUM_BINS = 20
LEVEL = 0.9


class Calibration(NamedTuple):
    """How a normal posterior fares on tables that were drawn from the model.

    Attributes:
        p_value: of a chi-squared test that ranks are uniform.
        coverage: the part of the rows whose latents lie in the region of probability 0.9.
        ranks: of the first latent of every row in its posterior, in [0, 1].
    """

    p_value: float
    coverage: float
    ranks: Tensor


def calibrate(setting: Setting, num_rows: int = NUM_ROWS) -> dict[str, Calibration]:
    """The Laplace posterior, the same around the mean of second order, and with its covariance."""
    problem, z = simulate(setting, num_rows)
    mode = solve(problem, FisherScoring()).value
    covariance = torch.linalg.inv(problem.information(mode))
    mean = second_order_mean(problem, mode)
    return {
        "Laplace": assess(z - mode, covariance),
        "second-order mean": assess(z - mean, covariance),
        "second-order mean and covariance": assess(
            z - mean, second_order_covariance(problem, mode)
        ),
    }


def assess(error: Tensor, covariance: Tensor) -> Calibration:
    """The calibration of normal laws of errors ``(N, l)`` with covariances ``(N, l, l)``."""
    # The rank of one latent: others of the row are not independent of it.
    ranks = torch.special.ndtr(error[:, 0] / covariance[:, 0, 0].sqrt())
    counts = torch.histc(ranks, NUM_BINS, 0, 1).numpy()
    distance = (error * torch.linalg.solve(covariance, error)).sum(-1)
    inside = distance <= stats.chi2.ppf(LEVEL, error.shape[1])
    return Calibration(float(stats.chisquare(counts).pvalue), float(inside.double().mean()), ranks)
