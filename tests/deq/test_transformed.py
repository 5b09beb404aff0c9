"""Checks of numbers under transformations of PyTorch."""

import pytest
import torch
from torch.func import grad, vmap

import pyro_expfam as pef

FAMILIES = {
    "bernoulli": (pef.families.Bernoulli(), lambda eta: torch.bernoulli(eta.sigmoid())),
    "poisson": (pef.families.Poisson(), lambda eta: torch.poisson(eta.exp())),
    "gaussian": (pef.families.Gaussian(1.0), lambda eta: eta),
    "binomial": (pef.families.Binomial(5), lambda eta: 5 * torch.bernoulli(eta.sigmoid())),
    "proportions": (pef.families.ContinuousBernoulli(), torch.sigmoid),
}
TABLES, ROWS, FEATURES, LATENTS = 3, 5, 4, 2


@pytest.fixture(name="problem", params=FAMILIES)
def a_problem(request):
    torch.set_default_dtype(torch.float64)
    family, draw = FAMILIES[request.param]
    y = draw(torch.randn(TABLES, ROWS, FEATURES))
    return family, y, torch.randn(FEATURES, LATENTS), torch.randn(FEATURES)


def agrees_with_a_loop(function, *mapped):
    each = torch.stack([function(*values) for values in zip(*mapped, strict=True)])
    torch.testing.assert_close(vmap(function)(*mapped), each)


def test_the_layer_maps_over_tables(problem):
    family, y, W, b = problem
    agrees_with_a_loop(lambda y: pef.solve_latents(family, y, W, b).value, y)
    agrees_with_a_loop(lambda y: pef.log_evidence(family, y, W, b), y)
    layer = pef.DEQLayer(family, FEATURES, LATENTS)
    torch.testing.assert_close(vmap(layer)(y), layer(y))


def test_the_layer_maps_over_all_that_comes_with_a_table(problem):
    family, y, W, b = problem
    offset, mask = torch.randn(TABLES, FEATURES), torch.rand(TABLES, ROWS, FEATURES) < 0.7
    weights, precision = torch.rand(TABLES, ROWS, 1), torch.rand(TABLES) + 0.5

    def latents(y, precision, offset, mask, weights):
        return pef.solve_latents(family, y, W, b, precision, offset, mask, weights).value

    agrees_with_a_loop(latents, y, precision, offset, mask, weights)
    # Only some of them are mapped, and tables are a batch of their own.
    agrees_with_a_loop(lambda w: latents(y, 1.0, None, None, w), weights)
    agrees_with_a_loop(lambda p, o: latents(y, p, o, mask, None), precision, offset)


def test_gradients_by_table(problem):
    family, y, W, b = problem

    def gradient(y):
        return grad(lambda W: pef.solve_latents(family, y, W, b).value.square().sum())(W)

    agrees_with_a_loop(gradient, y)


def test_mapped_numbers_are_checked(problem):
    family, y, W, b = problem
    holes = y.clone()
    holes[1, 2, 3] = torch.nan

    def latents(y, precision=1.0):
        return pef.solve_latents(family, y, W, b, precision).value

    with pytest.raises(ValueError, match=r"y must be finite; .* got nan at position \(1, 2, 3\)"):
        vmap(latents)(holes)
    with pytest.raises(ValueError, match="precision must be positive and finite, got -1"):
        vmap(latents, (None, 0))(y[0], torch.tensor([1.0, -1.0]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_layer_checks_every_call():
    W, b = torch.randn(FEATURES, LATENTS), torch.randn(FEATURES)
    family = pef.families.Poisson()

    def latents(y):
        return pef.solve_latents(family, y, W, b).value

    first, second = torch.poisson(torch.full((2, ROWS, FEATURES), 2.0))
    program = torch.jit.trace(latents, first, check_trace=False)
    torch.testing.assert_close(program(second), latents(second))
    with pytest.raises(RuntimeError, match="y must be in the support of Poisson"):
        program(second - 10)
