"""Checks of compositions: counts that share the total of their row."""

import math

import pyro
import pytest
import torch
from scipy import stats

import pyro_expfam as pef
from pyro_expfam.checks.discrepancies import deviance, discrepancies
from pyro_expfam.deq import LatentProblem

F = pef.families


def compositions(num_rows=150, precision=math.inf):
    """Compositions of two latents, with totals of their own; a Dirichlet law spreads the shares."""
    pyro.set_rng_seed(0)
    totals = torch.randint(5, 60, (num_rows, 1)).float()
    shares = torch.softmax(torch.randn(num_rows, 2) @ torch.randn(2, 6), -1)
    if math.isfinite(precision):
        shares = torch.distributions.Dirichlet(precision * shares + 1e-3).sample()
    return F.Multinomial(totals).sample(shares.clamp(min=1e-9).log()), totals


def checked(family, y, **entries):
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    model = pef.ExpFamPCA(family, 6, 2)
    guide = pef.LaplaceGuide(model)
    guide.fit(y, num_starts=1, **entries)
    return pef.check(model, guide, y, num_draws=50, **entries)


def of_fit(report):
    subjects = ("entries", "coverage", "dispersion", "zeros", "tails", "structure", "outliers")
    return [x for x in report.findings[""] if x.subject in subjects]


def test_draws_of_a_table_of_unknown_totals_have_its_own():
    y, totals = compositions()
    known = F.Multinomial().with_totals_of(y)
    torch.testing.assert_close(known.sample(torch.zeros_like(y)).sum(-1, keepdim=True), totals)
    own = F.Multinomial(totals)
    assert own.with_totals_of(torch.zeros_like(y)) is own
    y[3] = 0
    assert torch.equal(F.Multinomial().with_totals_of(y).sample(torch.zeros_like(y))[3], y[3])


def test_the_model_of_a_table_fits_and_too_varied_shares_do_not():
    good = {x.subject: x.level for x in of_fit(checked(F.Multinomial(), compositions()[0]))}
    assert "entries" not in good
    wanted = ("coverage", "dispersion", "zeros", "tails", "structure")
    assert [good[subject] for subject in wanted] == ["ok"] * 5
    bad = {x.subject: x for x in of_fit(checked(F.Multinomial(), compositions(precision=4.0)[0]))}
    assert bad["dispersion"].level == "PROBLEM"
    # A total is never learnt.
    assert "Learn the total" not in bad["dispersion"].text
    assert "NegativeBinomial() with the log totals of the rows as offset" in bad["dispersion"].text
    assert bad["zeros"].level == "PROBLEM"
    assert "Tweedie" not in bad["zeros"].text


def test_rows_without_a_count_and_rows_that_are_missing_are_no_obstacle():
    y, _ = compositions()
    y[3] = 0
    mask = torch.ones(len(y), 1, dtype=torch.bool)
    mask[5] = False
    found = of_fit(checked(F.Multinomial(), y, mask=mask))
    assert "PROBLEM" not in [x.level for x in found]


def problem_of(y):
    nothing = torch.zeros(6, 1).double()
    return LatentProblem(F.Multinomial(), y, nothing, nothing[:, 0], torch.tensor(1.0).double())


def test_the_deviances_of_a_row_add_up_to_its_own_and_none_is_negative():
    y = compositions()[0].double()
    eta = torch.randn(len(y), 6).double()
    found = deviance(problem_of(y), eta)
    assert float(found.min()) >= 0
    share, total = y / y.sum(-1, keepdim=True), y.sum(-1)
    entropy = stats.entropy(share.numpy(), torch.softmax(eta, -1).numpy(), axis=1)
    torch.testing.assert_close(found.sum(-1), 2 * total * torch.as_tensor(entropy))


def test_zeros_are_expected_as_of_binomial_counts():
    y = compositions()[0].double()
    problem, z = problem_of(y), torch.zeros(len(y), 1).double()
    problem = LatentProblem(
        F.Multinomial(y.sum(-1, keepdim=True)),
        *(problem.y, problem.map, problem.b, problem.precision),
    )
    found = discrepancies(problem, z, torch.ones_like(y, dtype=torch.bool)).zeros
    expected = stats.binom.pmf(0, y.sum(-1, keepdim=True), 1 / 6).mean()
    assert float(found) == pytest.approx(float((y == 0).double().mean()) - expected)
