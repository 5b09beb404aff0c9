"""Latents of laws without kernels of their own by the kernel of searches, beside PyTorch."""

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, cpu
from pyro_expfam.deq.backend import kernels_of

searched_rows = pytest.importorskip("pyro_expfam.deq.cpu.searched_rows")

F = pef.families
NUM_ROWS, NUM_FEATURES = 150, 21
FAMILIES = {
    "zero-inflated Poisson": F.ZeroInflatedPoisson(torch.linspace(0.01, 0.9, NUM_FEATURES)),
    "zero-inflated negative binomial": F.ZeroInflatedNegativeBinomial(2.0, 0.3),
    "Poisson log-normal": F.PoissonLogNormal(torch.linspace(0.1, 2.0, NUM_FEATURES)),
    "beta": F.Beta(5.0),
    "softplus": F.Poisson(link=pef.links.Softplus()),
    "negative binomial under the softplus": F.NegativeBinomial(
        torch.linspace(0.3, 1e3, NUM_FEATURES), link=pef.links.Softplus()
    ),
    "amounts under the softplus": F.Tweedie(1.3, 2.0, link=pef.links.Softplus()),
    "real numbers under the softplus": F.Gaussian(0.5, link=pef.links.Softplus()),
    "amounts": F.Tweedie(1.3, 2.0),
    "counts without zeros": F.ZeroTruncatedPoisson(),
    "mixed": F.Columns(
        [
            (slice(0, 6), F.ZeroInflatedPoisson(0.4)),
            ([6, 8], F.Gaussian(0.3)),
            ([7, 9], F.Poisson()),
            (slice(10, 16), F.Bernoulli(link=pef.links.Probit())),
            (slice(16, 21), F.Ordinal(4, cut_points=[-1.0, 0.0, 1.5])),
        ]
    ),
}


@pytest.fixture(autouse=True)
def tables_of_any_size(monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", 0)


def random_problem(family, latent_dim, dtype=torch.float64, scale=1.0, num_features=NUM_FEATURES):
    """A problem with an offset, weights, missing entries and a prior mean."""
    W, b = scale * torch.randn(num_features, latent_dim), 0.5 * torch.randn(num_features)
    eta, y = torch.randn(NUM_ROWS, latent_dim) @ W.T + b, torch.zeros(NUM_ROWS, num_features)
    for kind in family.kinds(num_features):
        y[:, kind.predictors] = kind.family.sample(eta[:, kind.predictors].clamp(-6, 6)).float()
    present = torch.rand(NUM_ROWS, num_features) < 0.8
    weights = present * (0.5 + torch.rand(NUM_ROWS, num_features))
    offset, loc = 0.3 * torch.randn(NUM_ROWS, 1), 0.2 * torch.randn(1, latent_dim)
    tensors = (x.to(dtype) for x in (y, W, b, torch.tensor(0.8), offset, weights, loc))
    return LatentProblem(family, *tensors)


def both_ways(problem):
    start = torch.zeros(NUM_ROWS, problem.latent_dim, dtype=problem.b.dtype)
    return (FisherScoring(compiled=on).solve(problem, start) for on in (True, False))


@pytest.mark.parametrize("name", FAMILIES)
def test_roots_are_the_same(name):
    for latent_dim, dtype in ((1, torch.float64), (5, torch.float64), (5, torch.float32)):
        problem = random_problem(FAMILIES[name], latent_dim, dtype)
        assert kernels_of(problem) is searched_rows
        fast, slow = both_ways(problem)
        assert bool(fast.converged.all())
        assert fast.value.dtype == dtype
        steps, of_operations = (x.num_iter.double().mean() for x in (fast, slow))
        if problem.family.self_concordance is None:
            # A decrease that is lost to rounding may cost a step more.
            assert float((steps - of_operations).abs()) < 0.05
        else:
            # Operations take certified steps, which need no last evaluation.
            assert steps < 1.5 * of_operations
        # In single precision operations end within their tolerance, the kernel within rounding.
        tolerance = (1e-5, 1e-7) if dtype == torch.float64 else (1e-3, 1e-4)
        torch.testing.assert_close(fast.value, slow.value, rtol=tolerance[0], atol=tolerance[1])
        score = problem.double().score(fast.value.double())
        assert float(score.abs().max()) < (1e-9 if dtype == torch.float64 else 1e-2)


def test_rows_that_are_not_convex_on_their_way_are_solved_by_operations():
    problem = random_problem(F.ZeroInflatedPoisson(0.6), 2, scale=4.0, num_features=5)
    start, rules = torch.zeros(NUM_ROWS, 2).double(), FisherScoring().rules(torch.float64)
    in_kernel = searched_rows._search(problem, start, rules).converged
    assert 0 < int(in_kernel.sum()) < NUM_ROWS
    fast, slow = both_ways(problem)
    torch.testing.assert_close(fast.converged, slow.converged)
    torch.testing.assert_close(fast.value, slow.value, rtol=1e-9, atol=1e-9)
    # Where the kernel ends the posterior is a normal: no row is at a saddle.
    torch.linalg.cholesky(problem.information(fast.value)[in_kernel])


def test_large_counts_and_means():
    """Counts in the millions, and predictors beyond where a zero has any probability."""
    problem = random_problem(F.ZeroInflatedPoisson(0.3), 2)
    problem.y[:, 0], problem.b[0] = 2e6, 14.0
    problem.y[:, 1], problem.b[1] = 0.0, 45.0
    fast, slow = both_ways(problem)
    assert float(fast.converged.double().mean()) > 0.95
    torch.testing.assert_close(fast.value, slow.value, rtol=1e-7, atol=1e-7)


def test_other_tables_are_left_to_others(monkeypatch):
    categories = F.Columns(
        [(slice(0, 11), F.ZeroInflatedPoisson(0.4)), (slice(11, 21), F.Categorical(2))]
    )
    problem = random_problem(F.ZeroInflatedPoisson(0.4), 2)
    assert not cpu.has_search(LatentProblem(categories, *[problem.y] * 5))
    assert not cpu.has_search(random_problem(F.Gaussian(0.5), 2))
    assert kernels_of(random_problem(F.Poisson(), 2)) is not searched_rows
    monkeypatch.setattr(cpu, "WORTH_AN_EVIDENCE", NUM_ROWS * NUM_FEATURES + 1)
    assert kernels_of(problem) is None
