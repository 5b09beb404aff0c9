"""Reading the loadings of a fit: which columns load, rotations, and what latents explain."""

from pyro_expfam.loadings.column_names import column_names
from pyro_expfam.loadings.communality import communalities
from pyro_expfam.loadings.explained_parts import ExplainedDeviance, explained_deviance
from pyro_expfam.loadings.rotated_loading import RotatedLoading, rotate
from pyro_expfam.loadings.rotations_to_axes import promax, varimax
from pyro_expfam.loadings.wald_test import LoadingTest, loading_test

__all__ = [
    "ExplainedDeviance",
    "LoadingTest",
    "RotatedLoading",
    "column_names",
    "communalities",
    "explained_deviance",
    "loading_test",
    "promax",
    "rotate",
    "varimax",
]
