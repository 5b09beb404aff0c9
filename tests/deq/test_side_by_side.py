"""Tables that share their latents."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.side_by_side import side_by_side
from pyro_expfam.evidence import integrate_evidence, sample_evidence
from pyro_expfam.evidence.row_evidence import evidence_at_root

F = pef.families
NUM_ROWS, LATENTS = 12, 2
PAIRS = [
    [F.Bernoulli(), F.Bernoulli()],
    [F.Bernoulli(), F.Poisson()],
    [F.Poisson(), F.Gaussian(torch.tensor([0.5, 0.7, 1.0], dtype=torch.float64))],
    [F.Gamma(torch.tensor(2.0, dtype=torch.float64)), F.NegativeBinomial(3.0), F.Bernoulli()],
    [F.Bernoulli(), F.Categorical(3)],
    [F.Bernoulli(link=pef.links.Probit()), F.Poisson()],
]
every_pair = pytest.mark.parametrize("laws", PAIRS, ids=lambda laws: "+".join(map(repr, laws)))


def tables(laws, seed=0):
    torch.manual_seed(seed)
    z = torch.randn(NUM_ROWS, LATENTS, dtype=torch.float64)
    precision = torch.tensor(1.2, dtype=torch.float64)
    found = []
    for place, law in enumerate(laws):
        levels = law.predictors_per_column
        W = 0.6 * torch.randn(3 * levels, LATENTS, dtype=torch.float64)
        b = 0.3 * torch.randn(3 * levels, dtype=torch.float64)
        offset = 0.3 * torch.randn(NUM_ROWS, 1, dtype=torch.float64) if place % 2 == 0 else None
        weights = None
        if place == 1:
            weights = (torch.rand(NUM_ROWS, 3) > 0.3).double().repeat_interleave(levels, -1)
        y = law.sample(z @ W.mT + b)
        found.append(
            LatentProblem(
                law, y, Dense(W.requires_grad_()), b.requires_grad_(), precision, offset, weights
            )
        )
    return found


@every_pair
def test_the_objective_is_the_sum_of_those_of_the_tables(laws):
    parts = tables(laws)
    joined = side_by_side(parts[0], parts[1:])
    z = torch.randn(NUM_ROWS, LATENTS, dtype=torch.float64)
    prior = joined.prior.objective(z)
    total = sum(part.objective(z) - prior for part in parts) + prior
    assert torch.allclose(joined.objective(z), total)
    score = sum(part.score(z) - part.prior.score(z) for part in parts) + joined.prior.score(z)
    assert torch.allclose(joined.score(z), score)
    of_prior = joined.prior_information()
    information = sum(part.information(z) - of_prior for part in parts) + of_prior
    assert torch.allclose(joined.information(z), information)


@every_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_score_is_zero_at_the_root(laws, dtype):
    parts = tables(laws, seed=1)
    exact = side_by_side(parts[0], parts[1:])
    fields = {k: x.to(dtype) for k, x in exact.fields.items()}
    joined = exact.with_fields(fields)
    solution = solve(joined, make_solver())
    assert bool(solution.converged.all())
    score = joined.double().score(solution.value.double())
    assert float(score.abs().max()) < (1e-4 if dtype == torch.float32 else 1e-9)


@every_pair
def test_gradients_reach_the_coefficients_of_every_table(laws):
    parts = tables(laws)
    coefficients = [x for part in parts for x in (part.map.loading, part.b)]

    def at(*tensors):
        new = [
            part.with_fields({"W": tensors[2 * k], "b": tensors[2 * k + 1]})
            for k, part in enumerate(parts)
        ]
        joined = side_by_side(new[0], new[1:])
        z = solve(joined, make_solver()).value
        return z, evidence_at_root(joined, z, 1), evidence_at_root(joined, z, 2)

    assert torch.autograd.gradcheck(at, coefficients, fast_mode=True)


@every_pair
@torch.no_grad()
def test_evidence_is_that_of_quadrature(laws):
    parts = tables(laws, seed=2)
    joined = side_by_side(parts[0], parts[1:])
    z = solve(joined, make_solver()).value
    exact = integrate_evidence(joined, z)
    torch.manual_seed(0)
    sampled = sample_evidence(joined, z, 4000)
    assert bool(((sampled.log_evidence - exact).abs() < 5 * sampled.standard_error + 1e-3).all())
    first, second = (float((evidence_at_root(joined, z, k) - exact).abs().sum()) for k in (1, 2))
    assert second < first


def test_one_family_without_tensors_stays_one_family():
    parts = tables([F.Poisson(), F.Poisson()])
    assert side_by_side(parts[0], parts[1:]).family == F.Poisson()
