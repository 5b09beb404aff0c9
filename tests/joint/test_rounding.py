"""Large observations whose linear predictors single precision cannot hold."""

import math
import warnings

import pyro
import pytest
import torch
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.deq import ConvergenceWarning

NUM_ROWS = 60
GUIDES = [pef.DEQMAPGuide, pef.LaplaceGuide]


def counts_about(size):
    torch.manual_seed(0)
    eta = 0.25 * torch.randn(NUM_ROWS, 2).double() @ torch.randn(2, 5).double()
    return torch.poisson(torch.exp(eta + math.log(size))).float()


def fitted(guide, y):
    torch.manual_seed(1)
    pyro.clear_param_store()
    model = pef.ExpFamPCA(pef.families.Poisson(), 5, 2).to(y.dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = guide(model).fit(y)
    return fit, [str(x.message) for x in caught if x.category is ConvergenceWarning]


@pytest.mark.parametrize(("guide", "size"), in_turn(GUIDES, [1e10, 1e8]))
def test_a_fit_says_what_rounding_of_large_counts_costs_and_names_the_cure(guide, size):
    y = counts_about(size)
    fit, said = fitted(guide, y)
    exact, none = fitted(guide, y.double())
    (message,) = [x for x in said if "rounds the linear predictors" in x]
    assert "model.double()" in message
    told = float(message.split("about ")[1].split(" ")[0])
    loss = fit.objective - exact.objective
    assert loss > 1e-3
    assert loss / 6 < told < 6 * loss
    assert exact.converged
    assert none == []


def test_a_fit_of_counts_of_a_trillion_is_told_of_whole_nats():
    _, said = fitted(pef.LaplaceGuide, counts_about(1e12))
    (message,) = [x for x in said if "rounds the linear predictors" in x]
    assert float(message.split("about ")[1].split(" ")[0]) > 10


@pytest.mark.parametrize("guide", GUIDES)
def test_counts_that_single_precision_can_hold_are_fitted_to_a_millionth_of_a_nat(guide):
    y = counts_about(1e4)
    fit, said = fitted(guide, y)
    exact, _ = fitted(guide, y.double())
    assert said == []
    assert fit.objective == pytest.approx(exact.objective, abs=1e-6 * NUM_ROWS)
