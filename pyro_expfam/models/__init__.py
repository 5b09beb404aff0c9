"""The block to write into a Pyro model."""

from pyro_expfam.models.annotations import Answer
from pyro_expfam.models.expfam_pca import ExpFamPCA
from pyro_expfam.models.paper_prior import PaperPrior, paper_prior
from pyro_expfam.models.priors import INITIAL_LOADING_SCALE, Hyperparameter, known_scale
from pyro_expfam.models.row_plate import RowPlace
from pyro_expfam.models.table_of_block import check_alike

__all__ = [
    "INITIAL_LOADING_SCALE",
    "Answer",
    "ExpFamPCA",
    "Hyperparameter",
    "PaperPrior",
    "RowPlace",
    "check_alike",
    "known_scale",
    "paper_prior",
]
