"""The meaning of the numbers of a check, in words, section by section."""

from __future__ import annotations

from pyro_expfam.checks.approximation_findings import approximation_findings
from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.finding import Finding
from pyro_expfam.checks.fit_findings import fit_findings
from pyro_expfam.checks.spread_findings import spread_findings
from pyro_expfam.checks.training_findings import training_findings

SECTIONS = {
    "Could the fitted model have made this table?": (
        "entries",
        "coverage",
        "dispersion",
        "zeros",
        "tails",
        "structure",
        "outliers",
        "intervals",
    ),
    "Is the fit finished?": ("solving", "training", "optima", "columns", "spread", "latents"),
    "If the model is right, are its posterior and evidence right?": (
        "posterior",
        "evidence",
        "means",
        "loading",
    ),
}
"""The questions of a report, each with the subjects of its findings."""


def findings(check: BlockCheck) -> list[Finding]:
    """All findings of a table, in words, beginning with the fit to it."""
    return [
        *fit_findings(check),
        *training_findings(check),
        *spread_findings(check),
        *approximation_findings(check),
    ]
