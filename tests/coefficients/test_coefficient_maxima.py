"""Maxima of the evidence: what is missing does not matter, and one that is not reached is told."""

import pytest
import torch
from coefficient_problems import FAMILIES

import pyro_expfam as pef
from pyro_expfam.coefficients import learn_noise_scale, learnt_noise, maximise_evidence, maximum
from pyro_expfam.deq.layer import make_problem

SOLVER = pef.deq.FisherScoring()
PRIOR = torch.tensor([1.0, 1e-2]).double()


def problem_of(family, num_rows=40, **entries):
    W, b = 0.7 * torch.randn(5, 1).double(), torch.zeros(5).double()
    y = family.sample(torch.randn(num_rows, 1).double() @ W.T)
    return y, lambda y, mask=None: make_problem(family, y, W, b, 1.0, mask=mask)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_missing_entries_are_not_read(family):
    y, problem = problem_of(family)
    mask = torch.rand(y.shape) < 0.7
    expected, expected_z = maximise_evidence(problem(y, mask), PRIOR, SOLVER)
    poisoned = torch.where(mask, y, torch.nan)
    found, z = maximise_evidence(problem(poisoned, mask), PRIOR, SOLVER)
    torch.testing.assert_close((found.W, found.b, z), (expected.W, expected.b, expected_z))


@pytest.mark.parametrize("by_column", [False, True])
def test_a_maximum_that_is_not_reached_is_a_warning_with_the_reason(by_column, monkeypatch):
    y, problem = problem_of(pef.families.Gaussian(1.0))
    monkeypatch.setattr(maximum, "MAX_SWEEPS", 1)
    monkeypatch.setattr(learnt_noise, "MAX_SWEEPS", 1)
    reason = "the maximum of the evidence: max_sweeps, 1, have been taken"
    with pytest.warns(pef.ConvergenceWarning, match=f"loading and .* not reached {reason}") as seen:
        maximise_evidence(problem(y), PRIOR, SOLVER)
    assert seen[0].filename == __file__
    with pytest.warns(pef.ConvergenceWarning, match=f"scale of the noise .* {reason}") as seen:
        learn_noise_scale(problem(y), PRIOR, SOLVER, by_column)
    assert seen[0].filename == __file__
