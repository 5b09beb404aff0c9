"""Prediction of entries of a table: missing ones, and columns given other columns."""

from pyro_expfam.prediction.conditional import Prediction, predict
from pyro_expfam.prediction.imputation import Imputation, impute

__all__ = ["Imputation", "Prediction", "impute", "predict"]
