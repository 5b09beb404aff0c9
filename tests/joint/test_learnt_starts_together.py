"""Starts with parameters of their own that are followed side by side go where each goes alone."""

import pytest
import torch
from test_starts_together import (
    LATENT_DIM,
    NUM_FEATURES,
    NUM_ROWS,
    entries_of_all_kinds,
)

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring
from pyro_expfam.guides.table_objective import free_parameters
from pyro_expfam.joint import (
    JointProblem,
    LearntParametersProblem,
    TableInMemory,
    fit_coefficients,
)
from pyro_expfam.joint.learnt_starts_together import LearntStartsTogether

F = pef.families
FAMILIES = [
    F.NegativeBinomial(),
    F.NegativeBinomial("shared"),
    F.NegativeBinomial(link=pef.links.Softplus()),
    F.ZeroInflatedPoisson(),
    F.ZeroInflatedNegativeBinomial(),
    F.Gamma("shared"),
    F.Weibull(),
    F.PoissonLogNormal(),
    F.Tweedie(),
    F.Ordinal(4),
    F.Columns({"count": F.NegativeBinomial(), "share": F.Beta(), "kind": F.Categorical(3)}),
    F.Columns({"zeros": F.ZeroInflatedPoisson(), "size": F.Gamma(), "answer": F.Ordinal(3)}),
]


def make_problem(family, **entries):
    width = {} if isinstance(family, F.Columns) else {"num_features": NUM_FEATURES}
    block = pef.ExpFamPCA(family, latent_dim=LATENT_DIM, **width).double()
    law = block.family.with_parameters(
        {name: x.detach() for name, x in block.family.parameters.items()}
    )
    eta = torch.randn(NUM_ROWS, LATENT_DIM).double()
    eta = eta @ torch.randn(LATENT_DIM, law.num_predictors(NUM_FEATURES)).double()
    y = law.decode(law.sample(0.5 * eta))
    like = torch.zeros(()).double()
    num_covariates = 2 if "covariates" in entries else 0
    table = TableInMemory(law, NUM_FEATURES, like, y, **entries, num_covariates=num_covariates)
    known = JointProblem(table, torch.tensor(0.5).double(), 2.0, 0.3, covariate_precision=0.1)
    return LearntParametersProblem.of(known, free_parameters(block))


def random_starts(problem, num_starts):
    """Coefficients of several starts, whose parameters differ."""
    table = problem.table
    shape = (table.num_predictors, LATENT_DIM + 1 + table.num_covariates)
    starts = [
        problem.coefficients_of(0.3 * torch.randn(shape).double(), table.family.parameters)
        for _ in range(num_starts)
    ]
    for place, start in enumerate(starts):
        start[:, shape[1] :] += 0.2 * place
    return torch.stack(starts)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_starts_go_the_way_of_each_alone_and_their_objectives_hold(family):
    problem = make_problem(family, **entries_of_all_kinds())
    starts = random_starts(problem, 3)
    together = LearntStartsTogether(problem, starts, LATENT_DIM)
    alone = LearntStartsTogether(problem, starts[1:2], LATENT_DIM)
    before = torch.full((3,), torch.inf).double()
    for _ in range(4):
        together.sweep()
        alone.sweep()
        assert (together.objectives <= before).all()
        before = together.objectives
    torch.testing.assert_close(alone.objectives[0], together.objectives[1])
    torch.testing.assert_close(alone.ends[0], together.ends[1])
    for end, z, objective in zip(together.ends, together.latents, before, strict=True):
        assert problem.value(end, z) == pytest.approx(float(objective), rel=1e-9, abs=1e-9)


def test_a_start_that_is_dropped_leaves_the_others_alone():
    problem = make_problem(F.NegativeBinomial())
    starts = random_starts(problem, 3)
    both = LearntStartsTogether(problem, starts, LATENT_DIM)
    alone = LearntStartsTogether(problem, starts[1:2], LATENT_DIM)
    for sweep in range(4):
        both.sweep()
        alone.sweep()
        if sweep == 1:
            both.keep([1])
    torch.testing.assert_close(both.objectives, alone.objectives)
    torch.testing.assert_close(both.ends[0], alone.ends[0])


def test_starts_come_to_rest_where_a_fit_does():
    problem = make_problem(F.NegativeBinomial())
    start = random_starts(problem, 2)
    together = LearntStartsTogether(problem, start, LATENT_DIM)
    for _ in range(300):
        together.sweep()
    for k in range(2):
        _, fit = fit_coefficients(problem, LATENT_DIM, FisherScoring(), start=together.ends[k])
        assert float(together.objectives[k]) == pytest.approx(fit.objective, rel=1e-4)
