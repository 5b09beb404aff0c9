"""Proves evidence and posteriors on simulated tables, and writes docs/validation.md.

Run it from anywhere: ``python tests/validation/run.py``. It takes some minutes.
"""

from pathlib import Path

import matplotlib as mpl
import sections
import torch
from calibration import calibrate
from evidence_error import evidence_error
from nuts import compare_with_nuts
from probabilistic_pca import pca_error
from pyro_laplace import largest_difference
from ranks import SKEWED, save_ranks
from simulations import FEW_COLUMNS, FURTHER_SETTINGS, OTHER_LOADINGS, RARE_EVENTS, SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"
RANKS = "ranks.png"


def main() -> None:
    """Computes everything and writes the page."""
    mpl.use("agg")
    # Pyro's guides and kernels make numbers of the default dtype.
    torch.set_default_dtype(torch.float64)
    gaussian = {setting: pca_error(setting) for setting in SETTINGS if setting.family == "Gaussian"}
    difference = largest_difference()
    further = (*FURTHER_SETTINGS, *FEW_COLUMNS)
    calibrations = {setting: calibrate(setting) for setting in (*SETTINGS, *further, RARE_EVENTS)}
    save_ranks(DOCS / "images" / RANKS, calibrations[SKEWED])
    errors = {}
    for setting in (*SETTINGS, *further, *OTHER_LOADINGS, RARE_EVENTS):
        errors[setting] = evidence_error(setting)
        print(setting, errors[setting], flush=True)
    distances = compare_with_nuts()
    print(distances, flush=True)
    page = [
        sections.INTRODUCTION,
        sections.probabilistic_pca(gaussian),
        sections.pyro_laplace(difference),
        sections.calibration(calibrations),
        sections.ranks(SKEWED, RANKS),
        sections.evidence(errors),
        sections.further(calibrations, errors),
        sections.nuts(distances),
        sections.failure(calibrations, errors),
        sections.MICROBES,
        sections.REFERENCES,
    ]
    (DOCS / "validation.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
