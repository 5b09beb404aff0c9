"""How many latents a table has."""

from pyro_expfam.selection.comparison import compare_latent_dims
from pyro_expfam.selection.latent_dims import LatentDim, LatentDims

__all__ = ["LatentDim", "LatentDims", "compare_latent_dims"]
