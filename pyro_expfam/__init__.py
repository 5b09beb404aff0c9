"""Exponential-family PCA for Pyro.

PCA for tables of bits, counts, proportions and real numbers. The block :class:`ExpFamPCA` goes into
any Pyro model. The latents of its guides are the root of the score (:class:`DEQMAPGuide`) or normal
around the root (:class:`LaplaceGuide`). The equilibrium layer beneath them is :class:`DEQLayer` or
:func:`solve_latents`. :func:`log_evidence` is the evidence of a table, :func:`check` reports what
can be trusted in a fit, :func:`to_arviz` hands the results to ArviZ, :func:`align` brings draws and
chains into one basis of the latents, and :mod:`plots` draws.

``check``, ``to_arviz`` and other functions that need ArviZ, pandas or Matplotlib are imported at
first use, so that ``import pyro_expfam`` takes little longer than ``import pyro``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_expfam import coefficients, deq, distributions, evidence, families, guides, joint, links
from pyro_expfam.deq import ConvergenceWarning, DEQLayer, Solution, linear, solve_latents
from pyro_expfam.evidence import log_evidence
from pyro_expfam.guides import CoefficientGuide, DEQEncoder, DEQMAPGuide, LaplaceGuide, load
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA, paper_prior

if TYPE_CHECKING:
    from pyro_expfam import checks, diagnostics, plots, tables
    from pyro_expfam.calibration import latent_calibration, simulation_based_calibration
    from pyro_expfam.checks import check, deviance_explained, deviance_explained_by_column
    from pyro_expfam.diagnostics import align, concat_chains, to_arviz
    from pyro_expfam.estimators import ExponentialFamilyPCA, fit_anndata
    from pyro_expfam.formula import Design
    from pyro_expfam.items import ItemResponse, item_response
    from pyro_expfam.loadings import (
        communalities,
        explained_deviance,
        loading_test,
        rotate,
        variance_shares,
    )
    from pyro_expfam.prediction import impute, predict
    from pyro_expfam.reports import report
    from pyro_expfam.selection import (
        LatentDims,
        ModelComparison,
        compare,
        compare_latent_dims,
        fit_statistics,
        likelihood_ratio,
    )

__version__ = "0.1.0"

__all__ = [
    "CoefficientGuide",
    "ConvergenceWarning",
    "DEQEncoder",
    "DEQLayer",
    "DEQMAPGuide",
    "Design",
    "ExpFamPCA",
    "ExponentialFamilyPCA",
    "ItemResponse",
    "LaplaceEvidence",
    "LaplaceGuide",
    "LatentDims",
    "ModelComparison",
    "Solution",
    "__version__",
    "align",
    "check",
    "checks",
    "coefficients",
    "communalities",
    "compare",
    "compare_latent_dims",
    "concat_chains",
    "deq",
    "deviance_explained",
    "deviance_explained_by_column",
    "diagnostics",
    "distributions",
    "evidence",
    "explained_deviance",
    "families",
    "fit_anndata",
    "fit_statistics",
    "guides",
    "impute",
    "item_response",
    "joint",
    "latent_calibration",
    "likelihood_ratio",
    "linear",
    "links",
    "load",
    "loading_test",
    "log_evidence",
    "paper_prior",
    "plots",
    "predict",
    "report",
    "rotate",
    "simulation_based_calibration",
    "solve_latents",
    "tables",
    "to_arviz",
    "variance_shares",
]

_MODULE_OF = {
    "Design": "formula",
    "ItemResponse": "items",
    "LatentDims": "selection",
    "ExponentialFamilyPCA": "estimators",
    "ModelComparison": "selection",
    "align": "diagnostics",
    "check": "checks",
    "communalities": "loadings",
    "compare": "selection",
    "compare_latent_dims": "selection",
    "concat_chains": "diagnostics",
    "deviance_explained": "checks",
    "deviance_explained_by_column": "checks",
    "explained_deviance": "loadings",
    "fit_statistics": "selection",
    "impute": "prediction",
    "fit_anndata": "estimators",
    "item_response": "items",
    "latent_calibration": "calibration",
    "likelihood_ratio": "selection",
    "loading_test": "loadings",
    "predict": "prediction",
    "report": "reports",
    "rotate": "loadings",
    "simulation_based_calibration": "calibration",
    "to_arviz": "diagnostics",
    "variance_shares": "loadings",
}
"""Where a name is that is imported at first use."""

_MODULES = ("checks", "diagnostics", "plots", "tables")
"""Modules that are imported at first use."""


def __getattr__(name: str) -> Any:
    """Imports what is not imported with the package (PEP 562)."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        found = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = found  # the next use finds it without a call
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, those not imported yet among them."""
    return sorted({*globals(), *__all__})
