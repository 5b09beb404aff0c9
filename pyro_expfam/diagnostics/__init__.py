"""Draws of a Pyro model and its guide for ArviZ, and alignment to one basis of the latents."""

from pyro_expfam.diagnostics.alignment import align
from pyro_expfam.diagnostics.chains import concat_chains
from pyro_expfam.diagnostics.conversion import to_arviz
from pyro_expfam.diagnostics.procrustes import AlignedDraws, align_draws

__all__ = ["AlignedDraws", "align", "align_draws", "concat_chains", "to_arviz"]
