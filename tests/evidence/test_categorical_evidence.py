"""The evidence of categories, whose levels are coupled."""

import pytest
import torch
from torch.autograd import gradcheck

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import laplace_evidence, mode_log_density, second_order_term
from pyro_expfam.evidence.second_order import second_order_covariance, second_order_mean

F = pef.families
FUNCTIONS = [
    laplace_evidence,
    mode_log_density,
    second_order_term,
    second_order_mean,
    second_order_covariance,
]


def random_fields(levels, columns, rows, latent_dim, scale=1.0):
    family = F.Categorical(levels)
    W = scale * torch.randn(columns * levels, latent_dim).double()
    b = 0.5 * torch.randn(columns * levels).double()
    y = family.sample(torch.randn(rows, latent_dim).double() @ W.T + b)
    return family, y, W, b


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_two_levels_are_bits_of_their_difference(function):
    family, y, W, b = random_fields(2, 6, 30, 2)
    one = torch.tensor(1.0).double()
    weights = 0.2 + torch.rand(30, 6).double()
    two = LatentProblem(family, y, W, b, one, None, weights.repeat_interleave(2, -1))
    bits = LatentProblem(
        F.Bernoulli(), y[:, 1::2], W[1::2] - W[::2], b[1::2] - b[::2], one, None, weights
    )
    z = solve(two, FisherScoring()).value
    torch.testing.assert_close(function(two, z), function(bits, z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_gradients_pass_gradcheck(function):
    family, y, W, b = random_fields(3, 3, 4, 2)
    offset, weights = torch.randn(4, 9).double(), 0.3 + torch.rand(4, 3).double()
    precision = torch.tensor(0.7).double()

    def value(W, b, precision, offset, weights):
        problem = LatentProblem(
            family, y, W, b, precision, offset, weights.repeat_interleave(3, -1)
        )
        return function(problem, solve(problem, FisherScoring()).value)

    inputs = tuple(x.requires_grad_() for x in (W, b, precision, offset, weights))
    assert gradcheck(value, inputs, fast_mode=True)


def test_the_second_order_is_nearer_to_quadrature_and_draws():
    torch.manual_seed(1)
    family, y, W, b = random_fields(4, 6, 40, 2)
    y = family.decode(y)
    exact = pef.evidence.quadrature_evidence(family, y, W, b)
    first, second = (pef.log_evidence(family, y, W, b, order=order) for order in (1, 2))
    assert (second - exact).abs().mean() < 0.4 * (first - exact).abs().mean()
    drawn = pef.evidence.importance_evidence(family, y, W, b, num_draws=2000)
    assert bool(((drawn.log_evidence - exact).abs() <= 5 * drawn.standard_error).all())
