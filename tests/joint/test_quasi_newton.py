"""Kept inner products give the same directions as two loops over all vectors."""

import pytest
import torch

from pyro_expfam.joint.quasi_newton import QuasiNewton, inner

SIZE = 9


def by_two_loops(pairs, gradient, scoring_step):
    q, shares = gradient.clone(), []
    for step, change in reversed(pairs):
        shares.append(torch.dot(step, q) / torch.dot(step, change))
        q = q - shares[-1] * change
    p = scoring_step(q)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        p = p + (share - torch.dot(change, p) / torch.dot(step, change)) * step
    return -p


@pytest.mark.parametrize("memory", [1, 2, 5])
def test_directions_are_those_of_two_loops(memory):
    factor = torch.randn(SIZE, SIZE).double()
    curvature = factor @ factor.T + torch.eye(SIZE)
    quasi_newton, pairs = QuasiNewton(memory), []
    for _ in range(8):
        step, gradient = torch.randn(2, SIZE).double()
        change = curvature @ step + 0.1 * torch.randn(SIZE).double()
        quasi_newton.remember(step, change)
        if torch.dot(step, change) > 0:
            pairs = [*pairs, (step, change)][-memory:]
        found = quasi_newton.direction(gradient, lambda q: 0.3 * q)
        torch.testing.assert_close(found, by_two_loops(pairs, gradient, lambda q: 0.3 * q))


def test_a_direction_asks_twice_whatever_is_remembered():
    asked = []

    def inners(pairs):
        asked.append(len(pairs))
        return [inner(x, y) for x, y in pairs]

    quasi_newton = QuasiNewton(4, inners)
    for _ in range(6):
        step = torch.randn(SIZE).double()
        quasi_newton.remember(step, 2 * step)
    asked.clear()
    quasi_newton.direction(torch.randn(SIZE).double(), torch.clone)
    assert asked == [4, 4]


def test_inner_products_of_many_small_numbers_keep_their_digits():
    x = torch.full((3_000_000,), 0.1)
    assert inner(x, x) == pytest.approx(3_000_000 * float(x[0]) ** 2, rel=1e-6)
    assert inner(x[:0], x[:0]) == 0
