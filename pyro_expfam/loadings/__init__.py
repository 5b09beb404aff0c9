"""Reading the loadings of a fit: which columns load, rotations, and what latents explain."""

from pyro_expfam.loadings.column_names import column_names
from pyro_expfam.loadings.explained_parts import ExplainedDeviance, explained_deviance
from pyro_expfam.loadings.rotated_loading import RotatedLoading, rotate
from pyro_expfam.loadings.rotations_to_axes import promax, varimax
from pyro_expfam.loadings.shares_of_variance import VarianceShares, communalities, variance_shares
from pyro_expfam.loadings.wald_test import LoadingTest, loading_test

__all__ = [
    "ExplainedDeviance",
    "LoadingTest",
    "RotatedLoading",
    "VarianceShares",
    "column_names",
    "communalities",
    "explained_deviance",
    "loading_test",
    "promax",
    "rotate",
    "variance_shares",
    "varimax",
]
