"""Fits of the evidence that run away from where it holds end early, and say so."""

from __future__ import annotations

import re
import warnings

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.joint import TableInMemory
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


def test_bits_end_early_with_one_warning_of_the_nats_and_the_rows_that_no_probability_has():
    y = bits(1000, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, fit = fit_of_table(y, pef.families.Bernoulli())
    (warning,) = caught
    assert issubclass(warning.category, pef.ConvergenceWarning)
    assert re.match(ADDED + " and the log evidence of .* rows", str(warning.message))
    assert fit.reason == RAN_AWAY
    assert not fit.converged
    assert fit.sweeps[-1].number < 200


@pytest.mark.slow
def test_a_mixed_table_whose_evidence_may_be_above_0_is_recognised_and_one_warning_says_it_all():
    family, y = mixed(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guide, fit = fit_of_table(y, family)
    assert fit.reason == RAN_AWAY
    (warning,) = caught
    assert issubclass(warning.category, pef.ConvergenceWarning)
    assert re.match(ADDED + ": loadings have run away", str(warning.message))
    terms = guide.sample_stats(y)["second_order_term"]
    assert float(terms.mean()) > 1.1


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


def flat_row(z):
    """A zero under zero-inflated counts, whose loss curves downwards before its latent is large."""
    family = pef.families.ZeroInflatedPoisson(0.3)
    table = TableInMemory(family, 1, torch.zeros((), dtype=torch.float64), torch.zeros(1, 1))
    problem = EvidenceProblem(table.double(), torch.tensor(2.0, dtype=torch.float64), 0.0, 0.0)
    at = torch.tensor([[z]], dtype=torch.float64)
    coefficients = torch.tensor([[2.5, 0.0]], dtype=torch.float64)

    def loss(z):
        zero = torch.log(0.3 + 0.7 * torch.exp(-torch.exp(2.5 * z)))
        return -zero + z.square()

    information = float(torch.func.hessian(loss)(at[0, 0]))
    return problem, coefficients, at, information


@pytest.mark.parametrize(
    ("z", "runs_away"), [(-1.0, False), (0.2, False), (0.3, True), (0.5, True)]
)
def test_an_information_near_zero_or_below_is_beyond_the_laplace_approximation(z, runs_away):
    problem, coefficients, at, information = flat_row(z)
    assert runs_away == (not information > 0.2)
    if information > 0:
        expected = torch.tensor([2.0 / information], dtype=torch.float64)
        assert torch.allclose(problem.widest_posterior(coefficients, at), expected)
    assert problem.has_run_away(coefficients, at) == runs_away


def test_a_convex_loss_has_no_posterior_wider_than_the_prior():
    y = bits(50, 5)
    table = TableInMemory(pef.families.Bernoulli(), 5, torch.zeros(()), y)
    problem = EvidenceProblem(table, torch.tensor(2.0), 0.0, 0.0)
    widest = problem.widest_posterior(torch.randn(5, 3), torch.randn(50, 2))
    assert bool((widest <= 1).all())


def test_zero_inflated_counts_within_a_model_are_told_of_quadrature():
    torch.manual_seed(1)
    family = pef.families.ZeroInflatedPoisson(0.3)
    y = family.sample(torch.randn(30, 1) @ torch.randn(1, 4) + 0.3 * torch.randn(4))
    block = pef.ExpFamPCA(family, 4, 1)

    def model(y):
        scale = pyro.sample("scale", pyro.distributions.LogNormal(0.0, 0.1))
        return block(y, offset=0.01 * scale.expand(4))

    with pytest.warns(pef.ConvergenceWarning, match=r"posterior variance .*nodes=7"):
        fit = pef.LaplaceGuide(model).fit(y, max_sweeps=400)
    assert fit.reason == RAN_AWAY
    assert fit.sweeps[-1].number < 400


@pytest.mark.slow
def test_zero_inflated_counts_of_few_columns_are_told_of_quadrature():
    torch.manual_seed(8)
    family = pef.families.ZeroInflatedPoisson(0.3)
    y = family.sample(torch.randn(60, 1) @ torch.randn(1, 6) + 0.3 * torch.randn(6))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 6, 1))
    with pytest.warns(pef.ConvergenceWarning, match=r"posterior variance .*nodes=7"):
        assert guide.fit(y, max_sweeps=400).reason == RAN_AWAY
    pyro.clear_param_store()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 6, 1))
    assert guide.fit(y, loss=pef.LaplaceEvidence(nodes=7)).converged
