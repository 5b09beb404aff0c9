"""Entries held out beside rows, the rule of one standard error, and several processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_cases import slow_unless

import pyro_expfam as pef
from pyro_expfam.coefficients import maximise_evidence
from pyro_expfam.coefficients.covariance import maximum_with_covariance
from pyro_expfam.coefficients.maximum import coefficients_of, with_coefficients
from pyro_expfam.deq.layer import make_problem, make_solver
from pyro_expfam.selection.accurate_evidence import accurate_evidence
from pyro_expfam.selection.held_out_parts import entry_folds
from pyro_expfam.selection.latent_dims import LatentDim, LatentDims
from pyro_expfam.selection.leaving_entries_out import leave_entries_out

F = pef.families
DRAWS = {
    "counts": (F.Poisson(), lambda eta: torch.poisson(torch.exp(eta + 0.5))),
    "bits": (F.Bernoulli(), lambda eta: torch.bernoulli(torch.sigmoid(2 * eta))),
    "reals": (F.Gaussian(1.0), lambda eta: eta + torch.randn_like(eta)),
}


def table(kind, num_rows, num_features, latent_dim=2, scale=0.7):
    W = scale * torch.randn(latent_dim, num_features).double()
    family, draw = DRAWS[kind]
    return family, draw(torch.randn(num_rows, latent_dim).double() @ W)


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind == "counts", DRAWS))
def test_an_entry_that_is_left_out_has_its_density_under_a_fit_without_it(kind):
    """Fits without each of some entries, against one fit of all."""
    torch.manual_seed(1)
    family, y = table(kind, 60, 6)
    prior = torch.tensor([1.0, 1.0, 0.01]).double()
    start = 0.3 * torch.randn(6, 2).double()
    problem = make_problem(family, y, start, torch.zeros(6).double(), 1.0)
    solver, free = make_solver(), torch.ones(3, dtype=torch.bool)
    problem, z, covariance = maximum_with_covariance(problem, prior, solver, free)
    found = leave_entries_out(problem, z, covariance, solver).by_entry
    rows, wanted = torch.arange(0, 60, 15), []
    for row in rows:
        for column in range(6):
            weights = torch.ones_like(y)
            weights[row, column] = 0.0
            without = replace(problem, weights=weights)
            fitted, _ = maximise_evidence(without, prior, solver)
            ends = [
                accurate_evidence(
                    with_coefficients(x.rows(row[None]), coefficients_of(fitted)), solver
                )
                for x in (problem, without)
            ]
            wanted.append(float(ends[0] - ends[1]))
    wanted = torch.tensor(wanted).double().view(4, 6)
    assert np.corrcoef(found[rows].flatten(), wanted.flatten())[0, 1] > 0.98
    # Far closer than what the entries gain by having been seen.
    seen = family.log_prob(y, problem.predictor(z))[rows].mean() - wanted.mean()
    assert abs(float(found[rows].mean() - wanted.mean())) < 0.15 * float(seen)


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind == "reals", DRAWS))
def test_entries_and_rows_find_the_number_of_latents(kind):
    torch.manual_seed(3)
    family, y = table(kind, 200, 15, 2, scale=1.0)
    for hold_out in ("rows", "entries"):
        found = pef.compare_latent_dims(family, y, [1, 2, 3], num_folds=2, hold_out=hold_out)
        assert found.one_standard_error == 2
        assert found.hold_out == hold_out


def test_missing_entries_are_not_scored():
    torch.manual_seed(0)
    family, y = table("counts", 60, 6)
    mask = torch.rand(60, 6) < 0.8
    poisoned = torch.where(mask, y, torch.nan)
    rows = [
        pef.compare_latent_dims(family, x, [1, 2], mask=mask, hold_out="entries").rows[0]
        for x in (y, poisoned)
    ]
    assert rows[0].held_out == rows[1].held_out


def test_categories_are_held_out_in_folds():
    torch.manual_seed(0)
    eta = torch.randn(60, 1) @ torch.randn(1, 4)
    y = (eta + torch.randn(60, 4) > 0).long()
    codes = pef.compare_latent_dims(F.Categorical(2), y, [1], num_folds=2, hold_out="entries")
    assert -4 * 60 < codes.rows[0].held_out < 0
    problem = make_problem(
        F.Categorical(2), y.double(), torch.zeros(8, 1).double(), torch.zeros(8).double(), 1.0
    )
    held = torch.stack(list(entry_folds(problem, 3)))
    assert torch.equal(held.sum(0), torch.ones(60, 4))
    shares = torch.randint(1, 5, (20, 4))
    with pytest.raises(ValueError, match="hold_out must be 'rows' for Multinomial"):
        pef.compare_latent_dims(F.Multinomial(), shares, [1], num_folds=2, hold_out="entries")


@pytest.mark.slow
def test_a_rare_count_decides_nothing_about_entries():
    """Whichever row the only count of a column is in, the differences hardly change."""
    torch.manual_seed(0)
    family, y = table("counts", 100, 8)
    differences = []
    for row in (None, 3, 50):
        rare = torch.zeros(100, 1).double()
        if row is not None:
            rare[row] = 1.0
        found = pef.compare_latent_dims(
            family, torch.cat([y, rare], 1), [1, 2], hold_out="rows", num_folds=2
        )
        differences.append(found.rows[0].held_out - found.rows[1].held_out)
    assert max(differences) - min(differences) < 0.05 * abs(differences[0])


def test_held_out_rows_do_not_move_with_the_tolerance(monkeypatch):
    """Also where the only count of a column is held out."""
    torch.manual_seed(0)
    family, y = table("counts", 40, 5)
    y = torch.cat([y, torch.zeros(40, 2).double()], 1)
    y[5, 5] = y[9, 6] = 1.0
    held_out = []
    for tol in (1e-8, 1e-10):
        monkeypatch.setattr(pef.selection.comparison, "FOLD_TOLERANCE", tol)
        held_out.append(pef.compare_latent_dims(family, y, [1], num_folds=2).rows[0].held_out)
    assert held_out[0] == pytest.approx(held_out[1], abs=0.01)


def test_the_smallest_number_within_one_standard_error():
    rows = [
        LatentDim(number, 0.0, -difference, 1.0, difference, error, 1.0, 1.0)
        for number, difference, error in [
            (1, 9.0, 4.0),
            (2, 3.0, 3.5),
            (3, 0.0, 0.0),
            (4, 1.0, 2.0),
        ]
    ]
    found = LatentDims(tuple(rows), 10)
    assert (found.best, found.one_standard_error) == (3, 2)
    assert "within one standard error: 2" in repr(found)


def test_families_are_compared_on_entries():
    torch.manual_seed(0)
    mean = torch.exp(1 + torch.randn(80, 1) @ torch.randn(1, 6))
    y = torch.poisson(mean * torch.distributions.Gamma(1.0, 1.0).sample(mean.shape))
    families = {"Poisson": F.Poisson(), "geometric": F.Geometric()}
    found = pef.compare(families, y, [1], num_folds=2, hold_out="entries")
    assert found.best.family == "geometric"


def test_other_words_and_numbers_are_refused():
    y = torch.ones(6, 3)
    with pytest.raises(ValueError, match="hold_out must be 'rows' or 'entries', got 'columns'"):
        pef.compare_latent_dims(F.Poisson(), y, [1], hold_out="columns")
    with pytest.raises(ValueError, match="n_jobs must be a number of processes"):
        pef.compare({"a": F.Poisson()}, y, [1], n_jobs=0)


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(monkeypatch):
    # Other processes have the draws and starts of a user.
    monkeypatch.undo()
    torch.manual_seed(0)
    family, y = table("counts", 80, 6)
    found = [
        pef.compare_latent_dims(family, y, [1, 2, 3], num_folds=2, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    ]
    for one, two in zip(*(x.rows for x in found), strict=True):
        assert one[:-1] == two[:-1]
    families = {"Poisson": F.Poisson(), "geometric": F.Geometric()}
    compared = [pef.compare(families, y, [1], num_folds=2, n_jobs=n_jobs) for n_jobs in (1, 2)]
    assert (
        compared[0].table.drop(columns="seconds").equals(compared[1].table.drop(columns="seconds"))
    )
