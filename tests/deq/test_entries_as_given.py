"""Errors about entries show the numbers that the user gave, and not what single precision has."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef

F = pef.families


def error_of(family, y, double=False):
    model = pef.ExpFamPCA(family, 2, 1)
    with pytest.raises(ValueError, match=r"^y must be") as error:
        pef.DEQMAPGuide(model.double() if double else model).fit(y)
    return str(error.value)


def table(entry):
    y = np.full((6, 2), 0.5)
    y[3, 1] = entry
    return y


@pytest.mark.parametrize("form", [np.asarray, pd.DataFrame, torch.tensor])
@pytest.mark.parametrize(
    ("family", "entry", "shown"),
    [
        (F.Gamma(2.0), 1e-60, "got 1e-60, which is 0 in float32 at position (3, 1)"),
        (F.Weibull(2.0), -1e-60, "got -1e-60, which is -0 in float32 at"),
        (F.Beta(2.0), 1 - 1e-12, "got 0.999999999999, which is 1 in float32 at"),
        (F.Gaussian(), 1e60, "got 1e+60, which is inf in float32 at"),
        (F.Gamma(2.0), -3.3, "got -3.3 at"),
        (F.Gamma(2.0), -1.2345678901, "got -1.2345678901 at"),
        (F.Gamma(2.0), 0.0, "got 0 at"),
        (F.Gaussian(), np.inf, "got inf at"),
    ],
)
def test_entries_are_shown_as_they_were_given(form, family, entry, shown):
    assert shown in error_of(family, form(table(entry)))


def test_entries_of_single_precision_are_shown_in_few_digits():
    assert "got -3.3 at" in error_of(F.Gamma(2.0), torch.tensor(table(-3.3)).float())


def test_entries_in_double_precision_round_to_nothing_else():
    assert "got 1.000000000001 at" in error_of(F.Beta(2.0), table(1 + 1e-12), double=True)


def test_a_covariate_that_overflows_is_shown():
    model = pef.ExpFamPCA(F.Gaussian(), 2, 1, num_covariates=1)
    x = np.zeros((6, 1))
    x[2] = 1e70
    with pytest.raises(ValueError, match=r"got 1e\+70, which is inf in float32 at position \(2, 0"):
        pef.DEQMAPGuide(model).fit(table(1.0), covariates=x)
