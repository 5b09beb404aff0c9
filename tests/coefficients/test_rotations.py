"""Directions and volume of the rotations of a loading."""

import math

import pytest
import torch
from scipy.linalg import expm

from pyro_expfam.coefficients import gauge_directions, log_orbit_volume
from pyro_expfam.coefficients.rotations import cheapest_rotation


def antisymmetric(size):
    matrix = torch.randn(size, size, dtype=torch.float64)
    return matrix - matrix.T


def test_directions_span_the_moves_of_small_rotations():
    W = torch.randn(7, 3, dtype=torch.float64)
    basis = gauge_directions(W)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    move = torch.nn.functional.pad(W @ antisymmetric(3), (0, 1)).flatten()
    torch.testing.assert_close(basis @ (basis.T @ move), move)


def test_procrustes_keeps_a_change_without_rotations():
    W = torch.randn(7, 3, dtype=torch.float64)
    basis = gauge_directions(W)
    change = 0.01 * torch.randn(28, dtype=torch.float64)
    change = (change - basis @ (basis.T @ change)).view(7, 4)[:, :3]
    u, _, v = torch.linalg.svd((W + change).T @ W)
    torch.testing.assert_close(u @ v, torch.eye(3, dtype=torch.float64))


def test_latents_without_loading_do_not_turn_among_themselves():
    W = torch.zeros(6, 3, dtype=torch.float64)
    W[:, 0] = 1.0
    assert gauge_directions(W).shape == (24, 2)
    assert gauge_directions(W[:, :1]).shape == (12, 0)


def test_volume_of_two_latents_is_that_of_two_circles():
    W = torch.randn(5, 2, dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 2001)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    points = torch.stack([W @ torch.tensor(expm(float(a) * turn)) for a in angle])
    length = points.diff(dim=0).flatten(1).norm(dim=1).sum()
    assert float(log_orbit_volume(W)) == pytest.approx(math.log(2 * length), abs=1e-5)


def test_volume_of_one_latent_counts_its_signs():
    assert float(log_orbit_volume(torch.randn(5, 1))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("precision", [[1.0, 4.0, 0.3], [2.0, 0.5, 2.0], [1.0, 1.0, 1.0]], ids=str)
def test_no_rotation_is_cheaper_and_the_cheapest_is_at_rest(precision):
    precision = torch.tensor(precision, dtype=torch.float64)
    W = torch.randn(7, 3, dtype=torch.float64)

    def penalty(rotation):
        return float((precision * (W @ rotation).square()).sum())

    found = cheapest_rotation(W, precision)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.mT @ found, eye)
    for _ in range(200):
        other, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        assert penalty(found) <= penalty(other) + 1e-9
    torch.testing.assert_close(cheapest_rotation(W @ found, precision), eye)
