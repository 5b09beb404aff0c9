"""Fits of the evidence to second order whose loadings run away end early, and say so."""

from __future__ import annotations

import warnings

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.joint.account import RAN_AWAY

SECOND = pef.LaplaceEvidence(order=2)
ADDED = r"^the second order adds [0-9.e+]+ nats to the log evidence of a row"


def bits(num_rows, num_features):
    torch.manual_seed(0)
    eta = torch.randn(num_rows, 2) @ torch.randn(2, num_features)
    return torch.bernoulli(torch.sigmoid(eta))


def fit_of_table(y, family):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, y.shape[1], 2))
    return guide, guide.fit(y, loss=SECOND, max_sweeps=300)


def fit_of_model(y):
    block = pef.ExpFamPCA(pef.families.Bernoulli(), y.shape[1], 2)

    def model(y):
        scale = pyro.sample("scale", pyro.distributions.LogNormal(0.0, 0.1))
        return block(y, offset=0.01 * scale.expand(y.shape[1]))

    guide = pef.LaplaceGuide(model)
    return guide.fit(y, loss=SECOND, max_sweeps=300)


def mixed(num_bits):
    columns = pef.families.Columns(
        [
            (list(range(num_bits)), pef.families.Bernoulli()),
            ([num_bits], pef.families.Gaussian(1.0)),
        ]
    )
    return columns, torch.cat([bits(1000, num_bits), torch.randn(1000, 1)], 1)


def test_bits_end_early_with_the_nats_and_the_rows_that_no_probability_has():
    y = bits(1000, 5)
    with pytest.warns(pef.ConvergenceWarning, match=ADDED + " and the log evidence of .* rows"):
        _, fit = fit_of_table(y, pef.families.Bernoulli())
    assert fit.reason == RAN_AWAY
    assert not fit.converged
    assert fit.sweeps[-1].number < 200


def test_a_mixed_table_whose_evidence_may_be_above_0_is_recognised_too():
    family, y = mixed(5)
    with pytest.warns(pef.ConvergenceWarning, match=ADDED + ": loadings have run away"):
        guide, fit = fit_of_table(y, family)
    assert fit.reason == RAN_AWAY
    terms = guide.sample_stats(y)["second_order_term"]
    assert float(terms.mean()) > 1.1


def test_one_warning_says_it_all():
    family, y = mixed(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_of_table(y, family)
    assert len(caught) == 1


def test_a_general_model_is_recognised_too():
    with pytest.warns(pef.ConvergenceWarning, match=ADDED):
        fit = fit_of_model(bits(1000, 5))
    assert fit.reason == RAN_AWAY
    assert fit.sweeps[-1].number < 200


@pytest.mark.filterwarnings("error")
def test_a_mixed_table_of_many_bits_comes_to_rest():
    family, y = mixed(30)
    assert fit_of_table(y, family)[1].converged


@pytest.mark.filterwarnings("error")
def test_the_first_order_and_quadrature_have_bounds():
    y = bits(1000, 5)
    for loss in (pef.LaplaceEvidence(), pef.LaplaceEvidence(nodes=7)):
        pyro.clear_param_store()
        guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 5, 2))
        assert guide.fit(y, loss=loss).converged
