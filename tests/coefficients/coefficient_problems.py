"""Random tables with masks and offsets, and their objectives as functions of coefficients."""

import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import laplace_evidence

FAMILIES = (
    pef.families.Gaussian(scale=0.7),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(total_count=16),
)
MIXED = pef.families.Columns(
    [
        ([0, 2], pef.families.Poisson()),
        ([1], pef.families.Categorical(3)),
        ([3], pef.families.Bernoulli()),
    ]
)
WITH_CATEGORIES = (*FAMILIES, pef.families.Categorical(3), MIXED)


def random_problem(family, latent_dim=2, num_rows=20, num_features=6) -> LatentProblem:
    W = 0.6 * torch.randn(num_features, latent_dim, dtype=torch.float64)
    b = 0.3 * torch.randn(num_features, dtype=torch.float64)
    offset = 0.2 * torch.randn(num_rows, num_features, dtype=torch.float64)
    # All levels of a column are missing together.
    num_columns = family.num_columns or num_features // family.predictors_per_column
    mask = (torch.rand(num_rows, num_columns) < 0.9).double()
    mask = mask[:, family.column_of_predictor(num_columns)]
    z = torch.randn(num_rows, latent_dim, dtype=torch.float64) / 1.3**0.5
    y = family.sample(z @ W.T + b + offset)
    precision = torch.tensor(1.3, dtype=torch.float64)
    return LatentProblem(family, y, W, b, precision, offset, mask)


def root(problem):
    return solve(problem, FisherScoring()).value


def coefficients_of(problem):
    return torch.cat([problem.W, problem.b[:, None]], 1).flatten()


def at(problem, coefficients):
    rows = coefficients.view(len(problem.b), -1)
    return problem.with_fields({"W": rows[:, :-1], "b": rows[:, -1]})


def log_prior(coefficients, prior_precision):
    return -0.5 * (prior_precision * coefficients.view(-1, len(prior_precision)).square()).sum()


def joint_objective(problem, prior_precision, coefficients, z):
    return at(problem, coefficients).objective(z).sum() - log_prior(coefficients, prior_precision)


def evidence_objective(problem, prior_precision, coefficients):
    there = at(problem, coefficients)
    evidence = laplace_evidence(there, solve(there, FisherScoring()).value)
    return -evidence.sum() - log_prior(coefficients, prior_precision)
