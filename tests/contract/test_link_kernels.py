"""Kernels of bits and counts under a link find the roots of operations, over a wide grid."""

import itertools

import pytest
import torch
from link_formulas import distance
from quick_cases import in_turn

from pyro_expfam.deq import FisherScoring, LatentProblem, backend
from pyro_expfam.families import Bernoulli, Binomial
from pyro_expfam.links import ComplementaryLogLog, Probit

pytest.importorskip("numba")

FAMILIES = [
    Bernoulli(link=Probit()),
    Bernoulli(link=ComplementaryLogLog()),
    Binomial(9, link=Probit()),
    Binomial(9, link=ComplementaryLogLog()),
]
NUM_ROWS, NUM_FEATURES = 40, 25
SCALES, PRECISIONS, LATENT_DIMS = (0.1, 1.0, 5.0), (0.01, 1.0, 100.0), (1, 2, 5, 16)
GRID = list(itertools.product(SCALES, PRECISIONS, LATENT_DIMS, (torch.float32, torch.float64)))
SAME = {torch.float32: 1e-5, torch.float64: 1e-10}
LEFT = {torch.float32: 1e-3, torch.float64: 1e-9}
"""What may be left of a score that float64 computes, where latents are rounded to the dtype."""


def hard_problem(family, scale, precision, latent_dim, dtype):
    """Rows without observations, rows with few, rows far from zero, weights and prior means."""
    draw = {"dtype": torch.float64}
    W = scale * torch.randn(NUM_FEATURES, latent_dim, **draw)
    b = torch.randn(NUM_FEATURES, **draw)
    z = precision**-0.5 * torch.randn(NUM_ROWS, latent_dim, **draw)
    offset = torch.randn(NUM_ROWS, NUM_FEATURES, **draw)
    # A rate of e^8 is many times what its observation says; so is a normal quantile of 30.
    offset[:6] += 30.0 if isinstance(family.link, Probit) else 8.0
    offset[6:12] -= 30.0
    weights = torch.rand(NUM_ROWS, NUM_FEATURES, **draw)
    weights[::5] = 0
    weights[1::5, 1:] = 0
    y = family.sample((z @ W.T + b).clamp(-12, 12))
    loc = precision**-0.5 * torch.randn(NUM_ROWS, latent_dim, **draw)
    tensors = y, W, b, torch.tensor(precision), offset, weights, loc
    return LatentProblem(family, *(x.to(dtype) for x in tensors))


def check(family, setting):
    problem = hard_problem(family, *setting)
    assert backend.kernels_of(problem) is not None
    start = torch.zeros_like(problem.loc)
    found = FisherScoring().solve(problem, start)
    operations = FisherScoring(compiled=False).solve(problem, start)
    assert found.converged.all()
    # Far from the root the operations lose some rates, and then these rows do not converge.
    solved = operations.converged
    assert solved.double().mean() >= 0.85
    dtype = setting[-1]
    error = (found.value - operations.value).abs().amax(-1)
    assert (error <= SAME[dtype] * (1 + operations.value.abs().amax(-1)))[solved].all()
    assert distance(problem, found.value).max() <= LEFT[dtype]


@pytest.mark.parametrize(("family", "setting"), in_turn(FAMILIES, GRID[::11]))
def test_roots_of_hard_tables(family, setting):
    check(family, setting)


@pytest.mark.parametrize("setting", [(1.0, 0.01, 16), (5.0, 1.0, 16)], ids=str)
def test_rows_that_steps_in_single_precision_lose_are_solved_from_their_start(setting):
    setting = (*setting, torch.float32)
    torch.manual_seed(GRID.index(setting))
    check(Bernoulli(link=ComplementaryLogLog()), setting)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_roots_of_hard_tables_of_the_whole_grid(family):
    for number, setting in enumerate(GRID):
        torch.manual_seed(number)
        check(family, setting)
