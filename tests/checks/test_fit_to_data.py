"""Tables against replicates of their own model: what is measured, and what it is measured with."""

import math

import pyro
import pytest
import torch
from scipy import stats

import pyro_expfam as pef
from pyro_expfam.checks import discrepancies as module
from pyro_expfam.checks.discrepancies import coverage, deviance, discrepancies
from pyro_expfam.checks.fit_to_data import check_fit_to_data
from pyro_expfam.checks.replicates import joint_score, replicates, score_of_evidence
from pyro_expfam.deq import LatentProblem
from pyro_expfam.deq.layer import make_solver, solve

F = pef.families
FAMILIES = (F.Poisson(), F.Binomial(6), F.Gaussian(0.7), F.ContinuousBernoulli(), F.Bernoulli())


def problem_of(family, num_rows=200, num_features=12, latent_dim=2, scale=0.6, intercept=0.0):
    W = scale * torch.randn(num_features, latent_dim).double()
    b = intercept + 0.3 * torch.randn(num_features).double()
    y = family.sample(torch.randn(num_rows, latent_dim).double() @ W.T + b)
    return LatentProblem(family, y, W, b, torch.tensor(1.0).double())


def root(problem):
    return solve(problem, make_solver()).value


def everywhere(problem):
    return torch.ones_like(problem.y, dtype=torch.bool)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_entries_of_the_predicted_law_are_covered_nine_times_in_ten(family):
    # Without a loading, rows say nothing of latents, and predictions are the law of the entries.
    problem = problem_of(family, num_rows=4000, scale=0.0)
    found = coverage(problem, root(problem), everywhere(problem))
    assert float(found) == pytest.approx(0.9, abs=4 * (0.09 / 48_000) ** 0.5)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_coverage_is_nearly_that_of_normal_intervals(factor):
    problem = problem_of(F.Gaussian(1.0), num_rows=4000, scale=0.0)
    centred = problem.b + factor * (problem.y - problem.b)
    wide = LatentProblem(problem.family, centred, problem.W, problem.b, problem.precision)
    found = float(coverage(wide, root(wide), everywhere(wide)))
    # The interval from the lowest to the highest of 19 draws is uncertain itself.
    expected = 1 - 2 * stats.norm.sf(stats.norm.ppf(0.95) / factor)
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=str)
def test_the_deviance_is_twice_the_log_density_that_the_best_parameter_gains(family):
    eta = torch.randn(50).double()
    y = family.sample(eta)
    mean = y if not isinstance(family, F.Binomial) else y / 6
    if isinstance(family, F.Poisson):
        best, fitted = stats.poisson.logpmf(y, y), stats.poisson.logpmf(y, eta.exp())
    elif isinstance(family, F.Binomial):
        best, fitted = (stats.binom.logpmf(y, 6, p) for p in (mean, eta.sigmoid()))
    else:
        best, fitted = (stats.norm.logpdf(y, m, 0.7) for m in (y, 0.7 * eta))
    nothing = torch.zeros(50, 1).double()
    problem = LatentProblem(family, y[None], nothing, nothing[:, 0], torch.tensor(1.0).double())
    found = deviance(problem, eta[None])[0]
    torch.testing.assert_close(found, 2 * torch.as_tensor(best - fitted), rtol=1e-6, atol=1e-6)


def test_dispersion_is_a_ratio_of_variances_by_column():
    problem = problem_of(F.Poisson(), num_rows=4000, scale=0.0, intercept=1.0)
    rate = problem.b.exp()
    size = torch.distributions.Gamma(2.0, 2.0).sample(problem.y.shape).double()
    y = torch.poisson(rate * size)
    mixed = LatentProblem(problem.family, y, problem.W, problem.b, problem.precision)
    found = discrepancies(mixed, root(mixed), everywhere(mixed)).columns.exp()
    torch.testing.assert_close(found, 1 + rate / 2, rtol=0.15, atol=0.0)


def test_zeros_are_those_beyond_what_the_family_expects():
    problem = problem_of(F.Poisson(), num_rows=4000, scale=0.0, intercept=1.0)
    kept = torch.rand_like(problem.y) > 0.1
    y = problem.y * kept
    less = LatentProblem(problem.family, y, problem.W, problem.b, problem.precision)
    expected = 0.1 * (1 - (-problem.b.exp()).exp().mean())
    found = discrepancies(less, root(less), everywhere(less)).zeros
    assert float(found) == pytest.approx(float(expected), abs=0.01)


def test_the_expected_share_of_zeros_is_a_share():
    # Counts around 55: in a table without zeros fewer are expected than the excess says.
    problem = problem_of(F.Poisson(), num_rows=60, scale=0.1, intercept=4.0)
    found = check_fit_to_data(problem, root(problem), None, torch.ones(3).double())
    assert found.zeros.observed == 0
    assert 0 <= found.zeros.expected < 1e-9


def test_what_columns_share_is_the_largest_eigenvalue_of_their_correlations():
    problem = problem_of(F.Gaussian(1.0), num_rows=300, scale=0.0)
    common = torch.randn(300, 1).double()
    statistic = problem.b + 0.7 * (problem.y - problem.b) + 0.7 * common
    shared = LatentProblem(problem.family, statistic, problem.W, problem.b, problem.precision)
    residual = statistic - problem.b
    moments = residual.T @ residual
    scale = moments.diagonal().sqrt()
    expected = torch.linalg.eigvalsh(moments / scale / scale[:, None])[-1]
    found = discrepancies(shared, root(shared), everywhere(shared)).shared.exp()
    assert float(found) == pytest.approx(float(expected), rel=1e-2)
    few = shared.rows(slice(0, 7))
    assert math.isfinite(discrepancies(few, root(few), everywhere(few)).shared)


@pytest.mark.parametrize("family", [F.Bernoulli(), F.Ising(), F.Binomial(1)], ids=str)
def test_the_only_discrepancy_of_bits_is_what_columns_share(family):
    problem = problem_of(family)
    found = discrepancies(problem, root(problem), everywhere(problem))
    for name in ("columns", "zeros", "tail", "coverage"):
        assert bool(getattr(found, name).isnan().all())
    assert math.isfinite(found.shared)


def test_missing_entries_are_not_read():
    problem = problem_of(F.Poisson(), num_rows=60)
    present = torch.rand(60, 12) < 0.8
    present[:, 5] = False
    other = torch.where(present, problem.y, 1e3)
    found = []
    for statistic in (problem.y, other):
        pyro.set_rng_seed(1)
        masked = LatentProblem(
            problem.family, statistic, problem.W, problem.b, problem.precision, None,
            present.double(),
        )  # fmt: skip
        found.append(check_fit_to_data(masked, root(masked), joint_score, torch.ones(3).double()))
    first, second = found
    for name in ("coverage", "dispersion", "zeros", "tail", "shared"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-9)
    assert first.worst == pytest.approx(second.worst)
    assert present[first.worst.row, first.worst.column]
    assert math.isnan(first.column_ratio[5])
    assert first.column_ratio.isfinite().sum() == 11


def test_the_worst_entry_and_its_row_and_column_are_found():
    problem = problem_of(F.Poisson(), num_rows=100, intercept=1.0)
    y = problem.y.clone()
    y[17, 3] += 60
    wrong = LatentProblem(problem.family, y, problem.W, problem.b, problem.precision)
    found = check_fit_to_data(wrong, root(wrong), None, torch.ones(3).double())
    assert (found.worst.row, found.worst.column) == (17, 3)
    assert found.worst.observed == float(y[17, 3])
    assert found.rows.places[0] == 17
    assert found.columns.places[0] == 3
    assert found.columns.ratios[0] == pytest.approx(float(found.column_ratio[3]))
    assert found.tail.observed > found.tail.expected + 2


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()], ids=["joint", "evidence"])
def test_replicates_are_refitted_as_a_table_would_be(loss):
    torch.manual_seed(3)
    family = F.Poisson()
    y = family.sample(torch.randn(300, 2) @ torch.randn(2, 12) / 2)
    model = pef.ExpFamPCA(family, 12, 2)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, loss=loss)
    start = guide.roots(y)[0]
    problem = start.problem.double()
    priors = torch.tensor([1.0, 1.0, 0.0]).double()
    score = joint_score if loss is None else score_of_evidence(1)
    (table, z), *_ = replicates(problem, root(problem), 1, score, priors)
    assert not torch.equal(table.y, problem.y)
    assert float(table.score(z).detach().abs().max()) < 1e-4
    # One step comes most of the way to where a whole fit ends.
    guide.fit(table.y.float(), loss=loss, tol=1e-9)
    end = guide.roots(table.y.float())[0].problem.double()

    def eta(of):
        return of.predictor(root(of))

    way = (eta(table) - eta(end)).norm()
    at_start = LatentProblem(family, table.y, problem.W, problem.b, problem.precision)
    assert float(way) < 0.5 * float((eta(at_start) - eta(end)).norm())
    (fixed, _), *_ = replicates(problem, root(problem), 1, None, priors)
    assert fixed.W is problem.W


def test_some_rows_of_a_large_table_are_compared(monkeypatch):
    problem = problem_of(F.Poisson(), num_rows=200)
    monkeypatch.setattr("pyro_expfam.checks.fit_to_data.MOST_ENTRIES", 12 * 50)
    found = check_fit_to_data(problem, root(problem), joint_score, torch.ones(3).double())
    assert found.num_rows == 50
    assert not found.is_refitted
    rows = module.rows_of_so_many_entries(problem, 12 * 50)
    assert rows.tolist() == list(range(0, 200, 4))
    assert found.worst.row in rows.tolist()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_scores_of_tables_of_the_model_are_small(family):
    problem = problem_of(family, num_rows=100)
    found = check_fit_to_data(problem, root(problem), None, torch.ones(3).double())
    for name in ("coverage", "dispersion", "zeros", "tail", "shared"):
        comparison = getattr(found, name)
        assert comparison is None or abs(comparison.score) < 4
    assert found.dispersion is None or found.dispersion.expected == pytest.approx(1.0, abs=0.01)
    assert found.zeros is None or found.zeros.observed == pytest.approx(
        float((problem.y == 0).double().mean())
    )


def test_columns_of_rare_events_do_not_seem_to_share_anything():
    torch.manual_seed(5)
    problem = problem_of(F.Poisson(), num_rows=300, num_features=30, intercept=-5.0)
    found = discrepancies(problem, root(problem), everywhere(problem)).shared.exp()
    # By chance alone it is about (1 + sqrt(30 / 300))^2 = 1.7.
    assert float(found) < 2
