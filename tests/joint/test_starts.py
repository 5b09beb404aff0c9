"""A fit starts from several places, and says where they led."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import (
    JointProblem,
    Start,
    TableInMemory,
    fit_coefficients,
    num_optima,
    starts,
)

pytestmark = pytest.mark.several_starts

SOLVER = FisherScoring()


def heavy_tailed(num_rows=80, num_features=8):
    eta = 1.5 * torch.randn(num_rows, 2) @ torch.randn(2, num_features)
    y = torch.poisson(eta.clamp(max=9).exp()).double()
    table = TableInMemory(pef.families.Poisson(), num_features, y, y)
    return JointProblem(table, torch.ones(()).double(), 1.0, 0.0)


def test_the_fit_ends_at_the_best_optimum_of_its_starts():
    problem = heavy_tailed()
    _, fit = fit_coefficients(problem, 2, SOLVER, num_starts=6)
    assert [start.kind for start in fit.starts].count("random") == 4
    assert {"spectral", "working"} <= {start.kind for start in fit.starts}
    ends = [start.objective for start in fit.starts if start.refined]
    assert len(ends) == 4
    assert ends == pytest.approx(sorted(ends), rel=1e-4)
    assert fit.objective <= ends[0] + 1e-9 * abs(ends[0])
    assert 1 <= fit.num_optima <= len(ends)
    _, alone = fit_coefficients(problem, 2, SOLVER, num_starts=1)
    assert fit.objective <= alone.objective + 1e-4 * abs(alone.objective)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
def test_starts_under_a_flat_prior_of_the_loading_have_a_scale(dtype):
    """The penalties alone would make the loading larger in every sweep, without end."""
    torch.manual_seed(0)
    y = torch.poisson(torch.exp(torch.randn(60, 2) @ torch.randn(2, 7))).to(dtype)
    table = TableInMemory(pef.families.Poisson(), 7, y, y)
    problem = JointProblem(table, torch.ones(()).to(dtype), 0.0, 0.0)
    theta, fit = fit_coefficients(problem, 2, SOLVER, num_starts=3)
    assert fit.converged
    assert theta.abs().max() < 1e4
    _, alone = fit_coefficients(problem, 2, SOLVER, num_starts=1)
    assert fit.objective <= alone.objective + 1e-4 * abs(alone.objective)


def test_random_starts_follow_the_seed_and_leave_the_state_of_the_generator_alone():
    problem, ends = heavy_tailed(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        _, fit = fit_coefficients(problem, 2, SOLVER, num_starts=3)
        assert torch.equal(torch.get_rng_state(), state)
        ends.append([start.objective for start in fit.starts if start.kind == "random"])
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize(("ends", "expected"), [([], 0), ([5.0], 1), ([7.0, 5.0, 5.0], 2)])
def test_optima_are_counted_among_starts_that_came_to_rest(ends, expected):
    refined = [Start("random", end, True) for end in ends]
    assert num_optima([*refined, Start("random", 9.0, False)]) == expected


def test_a_law_whose_means_are_found_by_bisection_starts_elsewhere():
    y = torch.randint(4, (40, 5))
    family = pef.families.Ordinal(4, torch.tensor([-1.0, 0.0, 1.0]))
    table = TableInMemory(family, 5, torch.zeros(()).double(), y)
    problem = JointProblem(table, torch.ones(()).double(), 1.0, 0.0)
    _, fit = fit_coefficients(problem, 2, SOLVER, num_starts=3)
    assert sorted(start.kind for start in fit.starts) == ["random", "random", "spectral"]


@pytest.mark.parametrize("num_starts", [0, 1.5])
def test_a_number_of_starts_that_is_none_is_refused(num_starts):
    with pytest.raises(ValueError, match="num_starts must be a whole number of at least 1"):
        fit_coefficients(heavy_tailed(), 2, SOLVER, num_starts=num_starts)


def test_a_fit_from_one_start_that_has_converged_knows_one_optimum():
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 6)))
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 6, 2))
    with pytest.warns(pef.ConvergenceWarning, match="max_sweeps"):
        assert guide.fit(y, num_starts=1, max_sweeps=1).num_optima == 0
    assert guide.fit(y, num_starts=1).num_optima == 1


def test_check_says_how_many_optima_were_seen():
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 6)))
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, num_starts=4)
    text = str(pef.check(model, guide, y, num_draws=50))
    expected = "of 4 starts of the fit the best 4 were followed to rest"
    assert expected in " ".join(text.split())
    assert fit.num_optima >= 1


def test_the_callback_and_the_time_end_a_fit_before_its_first_sweep():
    problem, seen = heavy_tailed(), []

    def callback(sweep):
        seen.append(sweep)
        return len(seen) == 3

    _, fit = fit_coefficients(problem, 2, SOLVER, callback=callback, num_starts=4)
    assert (fit.reason, fit.chosen, len(seen)) == ("the callback said so", True, 3)
    assert all(sweep.number == 0 and sweep.objective == float("inf") for sweep in seen)
    assert len(fit.sweeps) == 1
    _, fit = fit_coefficients(problem, 2, SOLVER, max_time=1e-9, num_starts=4)
    assert (fit.chosen, len(fit.sweeps)) == (True, 1)


def test_a_fit_that_is_over_at_its_first_start_takes_no_passes_for_the_next(monkeypatch):
    taken = []
    monkeypatch.setattr(starts, "working_start", lambda *args: taken.append(args))
    _, fit = fit_coefficients(heavy_tailed(), 2, SOLVER, callback=lambda sweep: True, num_starts=4)
    assert (fit.chosen, taken) == (True, [])


def test_starts_of_many_latents_are_followed_one_by_one(monkeypatch):
    problem, ends = heavy_tailed(), []
    for most in (starts.MOST_LATENTS, 1):
        monkeypatch.setattr(starts, "MOST_LATENTS", most)
        _, fit = fit_coefficients(problem, 2, SOLVER, num_starts=4)
        ends.append(sorted(start.objective for start in fit.starts))
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


@pytest.mark.slow
def test_the_fit_finds_the_best_of_many_starts_in_nearly_all_tables():
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        problem = heavy_tailed()
        _, fit = fit_coefficients(problem, 2, SOLVER)
        _, other = fit_coefficients(problem, 2, SOLVER, num_starts=60)
        found.append(fit.objective <= other.objective + 1e-5 * abs(other.objective))
    assert sum(found) >= 19
