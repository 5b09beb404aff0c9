"""A fit on one page of HTML."""

from pyro_expfam.reports.html_report import report

__all__ = ["report"]
