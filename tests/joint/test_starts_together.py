"""Starts that are followed side by side go where each of them goes alone."""

import pytest
import torch
from all_families import ON_THE_REAL_LINE, one_of_each_kind, one_of_each_way
from quick_cases import slow_unless

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.joint import JointProblem, TableInMemory, fit_coefficients
from pyro_expfam.joint.starts_together import StartsTogether

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 20, 3, 2
SOLVER = FisherScoring()
MIXED = pef.families.Columns(
    {
        "counts": pef.families.Poisson(),
        "kind": pef.families.Categorical(3),
        "bit": pef.families.Bernoulli(),
    }
)
FAMILIES = [*one_of_each_kind(ON_THE_REAL_LINE), pef.families.Categorical(3), MIXED]
WAYS = [*one_of_each_way(FAMILIES[:-2]), *FAMILIES[-2:]]


def make_problem(family, num_rows=NUM_ROWS, **entries):
    num_predictors = family.num_predictors(NUM_FEATURES)
    eta = torch.randn(num_rows, LATENT_DIM) @ torch.randn(LATENT_DIM, num_predictors)
    y = family.decode(family.sample(0.5 * eta.double()))
    like = torch.zeros(()).double()
    num_covariates = 2 if "covariates" in entries else 0
    table = TableInMemory(family, NUM_FEATURES, like, y, **entries, num_covariates=num_covariates)
    return JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3, covariate_precision=0.1)


def random_starts(problem, num_starts):
    table = problem.table
    shape = (num_starts, table.num_predictors, LATENT_DIM + 1 + table.num_covariates)
    return 0.3 * torch.randn(shape).double()


def entries_of_all_kinds(num_rows=NUM_ROWS):
    return {
        "offset": 0.1 * torch.randn(num_rows, 1).double(),
        "mask": torch.rand(num_rows, NUM_FEATURES) < 0.8,
        "weights": 0.5 + torch.rand(num_rows, NUM_FEATURES).double(),
        "covariates": torch.randn(num_rows, 2).double(),
    }


@pytest.mark.parametrize("family", slow_unless(lambda family: family in WAYS, FAMILIES), ids=repr)
def test_starts_together_go_the_way_of_each_alone(family):
    problem = make_problem(family, **entries_of_all_kinds())
    starts = random_starts(problem, 3)
    together = StartsTogether(problem, starts, LATENT_DIM)
    for _ in range(4):
        together.sweep()
    assert together.objectives.isfinite().all()
    for k in range(3):
        alone = StartsTogether(problem, starts[k : k + 1], LATENT_DIM)
        for _ in range(4):
            alone.sweep()
        torch.testing.assert_close(alone.objectives[0], together.objectives[k])
        torch.testing.assert_close(alone.coefficients[0], together.coefficients[k])


@pytest.mark.parametrize("family", slow_unless(WAYS.__contains__, FAMILIES), ids=repr)
def test_the_best_latents_are_no_worse_than_the_objective_says(family):
    problem = make_problem(family, **entries_of_all_kinds())
    together = StartsTogether(problem, random_starts(problem, 2), LATENT_DIM)
    before = torch.full((2,), torch.inf).double()
    for _ in range(5):
        together.sweep()
        assert (together.objectives <= before).all()
        before = together.objectives
        ends = zip(together.coefficients, together.latents, before, strict=True)
        for coefficients, latents, objective in ends:
            found = problem.value(coefficients, latents)
            assert found == pytest.approx(float(objective), rel=1e-9, abs=1e-9)
            z = torch.zeros(NUM_ROWS, LATENT_DIM).double()
            problem.solve_latents(coefficients, z, SOLVER)
            value = problem.value(coefficients, z)
            # A loss that is not convex may have several roots.
            slack = 1e-9 if family.is_convex else 0.05
            assert value <= objective + slack * (1 + abs(objective))


def test_starts_come_to_rest_where_a_fit_does():
    problem = make_problem(pef.families.Poisson(), num_rows=200)
    start = random_starts(problem, 2)
    together = StartsTogether(problem, start, LATENT_DIM)
    for _ in range(200):
        together.sweep()
    for k in range(2):
        _, fit = fit_coefficients(problem, LATENT_DIM, SOLVER, start=start[k])
        assert float(together.objectives[k]) == pytest.approx(fit.objective, rel=1e-5)


def test_a_start_that_is_dropped_leaves_the_others_alone():
    problem = make_problem(pef.families.Bernoulli())
    starts = random_starts(problem, 3)
    both = StartsTogether(problem, starts, LATENT_DIM)
    alone = StartsTogether(problem, starts[1:2], LATENT_DIM)
    for sweep in range(4):
        both.sweep()
        alone.sweep()
        if sweep == 1:
            both.keep([1])
    torch.testing.assert_close(both.objectives, alone.objectives)


def test_a_start_that_overflows_keeps_what_it_had():
    problem = make_problem(pef.families.Poisson())
    starts = random_starts(problem, 2)
    starts[0, :, :LATENT_DIM] = 1e200
    together = StartsTogether(problem, starts, LATENT_DIM)
    for _ in range(3):
        together.sweep()
    assert not together.coefficients.isnan().any()
    assert together.objectives[1].isfinite()
