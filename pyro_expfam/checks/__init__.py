"""What of a fit can be trusted, in words and numbers."""

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.estimates import Estimates, Gap
from pyro_expfam.checks.findings import Finding
from pyro_expfam.checks.report import Report, check
from pyro_expfam.checks.rows import Rows

__all__ = ["BlockCheck", "Estimates", "Finding", "Gap", "Report", "Rows", "check"]
