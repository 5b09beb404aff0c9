"""Guides whose block latents come from the equilibrium layer."""

from pyro_expfam.guides.block_estimate import BlockEstimate
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.coefficient_guide import CoefficientGuide
from pyro_expfam.guides.encoder import DEQEncoder
from pyro_expfam.guides.group_root import GroupRoot, TableRoot
from pyro_expfam.guides.laplace_guide import LaplaceGuide
from pyro_expfam.guides.laplace_posterior import LaplacePosterior
from pyro_expfam.guides.loaded_guide import load
from pyro_expfam.guides.map_guide import DEQMAPGuide
from pyro_expfam.guides.marginals import Marginal
from pyro_expfam.guides.matrix_free_posterior import MatrixFreePosterior
from pyro_expfam.guides.model_run import BlockRoot
from pyro_expfam.guides.point_guide import point_guide

__all__ = [
    "BlockEstimate",
    "BlockGuide",
    "BlockRoot",
    "CoefficientGuide",
    "DEQEncoder",
    "DEQMAPGuide",
    "GroupRoot",
    "LaplaceGuide",
    "LaplacePosterior",
    "Marginal",
    "MatrixFreePosterior",
    "TableRoot",
    "load",
    "point_guide",
]
