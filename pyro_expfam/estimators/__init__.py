"""Exponential-family PCA in the manner of scikit-learn."""

from pyro_expfam.estimators.annotated_data import fit_anndata
from pyro_expfam.estimators.exponential_family_pca import ExponentialFamilyPCA
from pyro_expfam.families.chosen_family import choose_family, named_family

__all__ = ["ExponentialFamilyPCA", "choose_family", "fit_anndata", "named_family"]
