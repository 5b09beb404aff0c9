"""Proves the posteriors of latents on simulated tables, and writes docs/validation.md.

Run it from anywhere: ``python tests/validation/run.py``. It takes some minutes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from calibration import NUM_BINS, NUM_ROWS, Calibration, calibrate
from evidence_error import NUM_DRAWS, EvidenceError, evidence_error
from evidence_error import NUM_ROWS as NUM_EVIDENCE_ROWS
from simulations import RARE_EVENTS, SETTINGS, Setting

PAGE = Path(__file__).resolve().parents[2] / "docs" / "validation.md"

INTRODUCTION = """# Validation

`python tests/validation/run.py` makes this page. Tables are drawn from the model: latents from the
standard normal law, loadings of variance one over the number of latents, intercepts zero. The
loadings are known; what is looked at is the posterior of the latents. The suite asserts what the
page says (`make test-all`)."""

CALIBRATION = f"""## Calibration of latents

If a posterior is right, the rank of the true latent in it is uniform, and regions of probability
0.9 hold the latents of 90% of the rows (Talts et al., 2018). Below are the p-value of a chi-squared
test of {NUM_BINS} bins of ranks, and that coverage, for {NUM_ROWS:,} rows: the coverage has a
standard error of 0.7%. The Laplace posterior is normal around the mode; the next two have the mean
of [second order](mathematics.md#evidence), the last its covariance too."""

EVIDENCE = f"""## Evidence

The mean absolute error of the log evidence of a row, in nats, against importance sampling with
{NUM_DRAWS:,} draws from the Laplace posterior, over {NUM_EVIDENCE_ROWS} rows. What the draws
themselves leave is in the column of standard errors."""

FAILURE = """## Where it fails

Four bits a row, of which few are 1, with loadings of standard deviation 4: posteriors are far from
normal, and the second order is worse than the first. The Pareto diagnostic flags a part of the rows
here, and none in the settings above."""


def main() -> None:
    """Computes everything and writes the page."""
    calibrations = {setting: calibrate(setting) for setting in (*SETTINGS, RARE_EVENTS)}
    errors = {}
    for setting in (*SETTINGS, RARE_EVENTS):
        errors[setting] = evidence_error(setting)
        print(setting, errors[setting], flush=True)
    sections = [
        INTRODUCTION,
        CALIBRATION,
        calibration_table(calibrations, SETTINGS),
        EVIDENCE,
        evidence_table(errors, SETTINGS),
        FAILURE,
        calibration_table(calibrations, [RARE_EVENTS]),
        evidence_table(errors, [RARE_EVENTS]),
        "S. Talts, M. Betancourt, D. Simpson, A. Vehtari and A. Gelman. Validating Bayesian "
        "inference algorithms with simulation-based calibration. arXiv 1804.06788, 2018.",
    ]
    PAGE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def calibration_table(
    results: dict[Setting, dict[str, Calibration]], settings: Iterable[Setting]
) -> str:
    """p-values and coverages of the posteriors by setting."""
    rows = []
    for setting in settings:
        found = results[setting].values()
        cells = [f"{x.p_value:.3f}, {x.coverage:.1%}" for x in found]
        rows.append([*_names(setting), *cells])
    return _table(["family", "features", "latents", *results[RARE_EVENTS]], rows)


def evidence_table(results: dict[Setting, EvidenceError], settings: Iterable[Setting]) -> str:
    """Errors of both orders by setting."""
    rows = []
    for setting in settings:
        error = results[setting]
        cells = [f"{error.first:.4f}", f"{error.second:.4f}", f"{error.standard_error:.4f}"]
        rows.append([*_names(setting), *cells, f"{error.unreliable:.0%}"])
    heading = ["family", "features", "latents", "first order", "second order"]
    return _table([*heading, "standard error", "rows with k-hat above 0.7"], rows)


def _names(setting: Setting) -> list[str]:
    return [setting.family, str(setting.num_features), str(setting.latent_dim)]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
