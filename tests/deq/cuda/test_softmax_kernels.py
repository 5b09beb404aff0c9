"""The kernels of categories find the root of float64, and have its gradients."""

import pytest
import torch
from kernel_tables import to
from quick_cases import in_turn
from random_tables import posterior_distance
from test_solving import solve_by_kernel

from pyro_expfam.deq import LatentProblem, cuda, root_gradients
from pyro_expfam.deq.cuda import kernels
from pyro_expfam.families import Bernoulli, Categorical

SIZES = [(1, 1, 2, 1), (65, 3, 3, 2), (33, 5, 4, 5), (9, 2, 10, 16), (9, 2, 5, 17), (9, 2, 16, 3)]
"""Rows, columns, levels and latents: ragged, and around the sizes of blocks."""

GIVEN = ["", "offset, mask", "offset by row, weights by row"]


def random_problem(size, given, device, scale=1.0) -> LatentProblem:
    rows, columns, levels, latent_dim = size
    family = Categorical(levels)
    W = scale * torch.randn(columns * levels, latent_dim) / latent_dim**0.5
    b = torch.randn(columns * levels)
    y = family.sample(torch.randn(rows, latent_dim) @ W.T + b)
    fields = {}
    if "offset" in given:
        fields["offset"] = torch.randn(rows, columns * levels)
    if "offset by row" in given:
        fields["offset"] = torch.randn(rows, 1)
    if "mask" in given:
        fields["weights"] = (torch.rand(rows, columns) < 0.7).float().repeat_interleave(levels, -1)
    if "weights by row" in given:
        fields["weights"] = torch.rand(rows, 1)
    return to(LatentProblem(family, y, W, b, torch.tensor(1.3), **fields), device)


@pytest.mark.parametrize(("size", "given"), in_turn(SIZES, GIVEN))
def test_root_and_gradients(size, given, device):
    problem = random_problem(size, given, device)
    start = torch.randn(problem.num_rows, problem.latent_dim, device=device)
    solution = solve_by_kernel(problem, start)
    assert solution.converged.all()
    assert posterior_distance(problem, solution.value).max() < 1e-4
    z, grad = solution.value, torch.randn_like(start)
    found = kernels.gradients(problem, z, grad, root_gradients.SUMMED)
    expected = root_gradients.gradients(
        problem.double(), z.double(), grad.double(), root_gradients.SUMMED
    )
    for name, x in found.items():
        error = float((x.double() - expected[name]).norm())
        assert error <= 2e-5 * (1 + float(expected[name].norm()))


def test_steep_loadings(device):
    problem = random_problem((30, 5, 5, 2), "", device, scale=5.0)
    solution = solve_by_kernel(problem, torch.zeros(30, 2, device=device))
    assert solution.converged.all()
    assert posterior_distance(problem, solution.value).max() < 1e-3


def test_two_levels_are_bits_of_their_difference(device):
    two = random_problem((34, 3, 2, 3), "offset, mask", device)
    bits = LatentProblem(
        Bernoulli(),
        two.y[:, 1::2],
        two.W[1::2] - two.W[::2],
        two.b[1::2] - two.b[::2],
        two.precision,
        two.offset[:, 1::2] - two.offset[:, ::2],
        two.weights[:, ::2],
    )
    start = torch.zeros(34, 3, device=device)
    found, expected = (solve_by_kernel(problem, start).value for problem in (two, bits))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


def test_gradients_of_entries_are_left_to_pytorch(device):
    problem = random_problem((5, 3, 3, 2), "offset", device)
    z = torch.zeros(5, 2, device=device)
    assert kernels.gradients(problem, z, z, {"W", "offset"}) is None


def test_many_levels_are_left_to_pytorch():
    assert cuda.has_activation(Categorical(16))
    assert not cuda.has_activation(Categorical(17))
