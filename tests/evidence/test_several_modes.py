"""The evidence of rows whose posterior has several modes."""

import math

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_problem
from pyro_expfam.evidence import quadrature_evidence

F = pef.families


def on_a_grid(family, y, W, b, size=721):
    """The log evidence of two latents on a fixed grid, ``(N,)``."""
    problem = make_problem(family, y, W, b, 1.0)
    places = torch.linspace(-9, 9, size, dtype=torch.float64)
    z = torch.cartesian_prod(places, places)
    found = []
    for row in range(len(y)):
        one = problem.rows(slice(row, row + 1))
        log_density = one.log_probs(one.predictor(z[:, None])).sum((1, 2)) - z.square().sum(-1) / 2
        found.append(log_density.logsumexp(0))
    return torch.stack(found) + 2 * (places[1] - places[0]).log() - math.log(2 * math.pi)


def test_zero_inflated_counts_with_two_explanations_are_integrated_over_both():
    # A rule around one root was up to 0.2 nats off: a count of 0 says that the rate is low, or
    # nothing.
    torch.manual_seed(0)
    W, b = 2 * torch.randn(6, 2), 0.5 + torch.randn(6)
    family = F.ZeroInflatedPoisson(0.3)
    y = family.sample(torch.randn(12, 2) @ W.T + b)[[0, 5, 9]].double()
    found = quadrature_evidence(family, y, W.double(), b.double())
    expected = on_a_grid(family, y, W.double(), b.double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_proportions_that_contradict_each_other_are_integrated_over_all_modes():
    # It was 9e-4 nats off here.
    W = [[-3.2106, 0.4650], [4.4797, 1.6946], [2.4013, -0.8031]]
    W += [[-2.8520, 1.8079], [1.7114, 1.3778], [1.7700, 3.5413]]
    b = [0.4191, 0.5513, -0.3688, 0.2243, -0.7717, 1.3816]
    y = [[0.97, 0.0012, 0.97, 0.1381, 0.0197, 0.97]]
    W, b, y = (torch.tensor(x).double() for x in (W, b, y))
    found = quadrature_evidence(F.Beta(30.0), y, W, b)
    torch.testing.assert_close(found, on_a_grid(F.Beta(30.0), y, W, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", [3.0, 6.0])
def test_two_far_modes_of_one_latent_both_count(distance):
    # Precise proportions near 0 and 1 of loadings of both signs.
    family = F.Beta(2000.0)
    W, b = torch.tensor([[1.0], [-1.0]]).double(), torch.zeros(2).double()
    share = torch.sigmoid(torch.tensor(distance)).double()
    y = torch.stack([share, share])[None]
    places = torch.linspace(-12, 12, 40001, dtype=torch.float64)[:, None]
    problem = make_problem(family, y, W, b, 1.0)
    log_density = problem.log_probs(problem.predictor(places[:, None])).sum((1, 2))
    whole = (log_density - places[:, 0].square() / 2).logsumexp(0)
    whole = whole + (places[1, 0] - places[0, 0]).log() - 0.5 * math.log(2 * math.pi)
    found = quadrature_evidence(family, y, W, b)
    torch.testing.assert_close(found, whole[None], rtol=0, atol=1e-6)
