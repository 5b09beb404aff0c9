"""The picture of ranks of true latents in their posteriors."""

from pathlib import Path

import matplotlib.pyplot as plt
from calibration import NUM_BINS, Calibration
from simulations import Setting

import pyro_expfam as pef

SKEWED = Setting("Poisson", 30, 5)
"""The setting whose ranks depend most on the order."""

TITLES = {"Laplace": "First order", "second-order mean and covariance": "Second order"}


def save_ranks(path: Path, calibrations: dict[str, Calibration]) -> None:
    """Draws the bins of the chi-squared test, to first and second order."""
    figure, grid = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for (name, title), ax in zip(TITLES.items(), grid, strict=True):
        # In the place of draws there are as many equal parts of the posterior as there are bins.
        place = (NUM_BINS * calibrations[name].ranks).floor().clamp(max=NUM_BINS - 1)
        pef.plots.plot_calibration(place, num_draws=NUM_BINS - 1, ax=ax)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("rank of the true latent, in twentieths")
        ax.set_title(title)
    top = max(ax.get_ylim()[1] for ax in grid)
    for ax in grid:
        ax.set_ylim(0, top)
    figure.savefig(path, dpi=120)
    plt.close(figure)
