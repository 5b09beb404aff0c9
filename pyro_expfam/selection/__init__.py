"""Which family a table has, and how many latents."""

from pyro_expfam.selection.compare_families import compare
from pyro_expfam.selection.comparison import compare_latent_dims
from pyro_expfam.selection.latent_dims import LatentDim, LatentDims
from pyro_expfam.selection.likelihood_statistics import (
    FitStatistics,
    LikelihoodRatio,
    fit_statistics,
    likelihood_ratio,
)
from pyro_expfam.selection.model_comparison import ComparedModel, ModelChoice, ModelComparison

__all__ = [
    "ComparedModel",
    "FitStatistics",
    "LatentDim",
    "LatentDims",
    "LikelihoodRatio",
    "ModelChoice",
    "ModelComparison",
    "compare",
    "compare_latent_dims",
    "fit_statistics",
    "likelihood_ratio",
]
