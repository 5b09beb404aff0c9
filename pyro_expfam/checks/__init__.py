"""Checks of a fit: what can be trusted, in words and numbers."""

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.conditioning import Conditioning
from pyro_expfam.checks.estimates import Estimates, Gap
from pyro_expfam.checks.explained import deviance_explained, deviance_explained_by_column
from pyro_expfam.checks.finding import Finding
from pyro_expfam.checks.fit_to_data import Comparison, Entry, FitToData, Outliers
from pyro_expfam.checks.learnt_spreads import LearntSpread
from pyro_expfam.checks.names import Names
from pyro_expfam.checks.report import Report, check
from pyro_expfam.checks.rows import Rows

__all__ = [
    "BlockCheck",
    "Comparison",
    "Conditioning",
    "Entry",
    "Estimates",
    "Finding",
    "FitToData",
    "Gap",
    "LearntSpread",
    "Names",
    "Outliers",
    "Report",
    "Rows",
    "check",
    "deviance_explained",
    "deviance_explained_by_column",
]
