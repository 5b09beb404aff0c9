"""Latents and their gradients by Anderson acceleration, as the paper finds them.

Written after the solver that the paper's authors published: a ridge of 1e-4 on the residuals of
the past iterates, weights by least squares, and a stop when the residual of the whole batch is a
thousandth of its iterate.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WINDOW = 5
MAX_ITER = 50
RIDGE = 1e-4
TOLERANCE = 1e-3

Map = Callable[[Tensor], Tensor]
SystemSolver = Callable[[Tensor, Tensor], Tensor]


def least_squares(system: Tensor, target: Tensor) -> Tensor:
    """Solves systems ``(N, k, k)`` as the published code does, which a singular one survives."""
    return torch.linalg.lstsq(system, target).solution


def elimination(system: Tensor, target: Tensor) -> Tensor:
    """Solves systems ``(N, k, k)`` by the fastest operation there is, right or wrong."""
    return torch.linalg.solve_ex(system, target).result


def anderson(function: Map, start: Tensor, solve: SystemSolver) -> Tensor:
    """A fixed point ``(N, l)`` of ``function``: the iterate of the least relative residual."""
    iterates = start.new_zeros(len(start), WINDOW, start.shape[1])
    values = torch.zeros_like(iterates)
    best, least = start, torch.inf
    current = start
    for k in range(MAX_ITER):
        value = function(current)
        iterates[:, k % WINDOW], values[:, k % WINDOW] = current, value
        residual = float((value - current).norm() / (value.norm() + 1e-5))
        if residual < least:
            best, least = current, residual
        if least < TOLERANCE:
            break
        filled = min(k + 1, WINDOW)
        weights = mixing_weights(values[:, :filled] - iterates[:, :filled], solve)
        current = (weights.unsqueeze(1) @ values[:, :filled]).squeeze(1)
    return best


def mixing_weights(steps: Tensor, solve: SystemSolver) -> Tensor:
    """Weights ``(N, k)`` with sum one that combine ``steps`` ``(N, k, l)`` to the shortest."""
    num_rows, size, _ = steps.shape
    system = steps.new_ones(num_rows, size + 1, size + 1)
    system[:, 0, 0] = 0
    system[:, 1:, 1:] = steps @ steps.mT + RIDGE * torch.eye(size)
    target = steps.new_zeros(num_rows, size + 1, 1)
    target[:, 0] = 1
    return solve(system, target)[:, 1:, 0]


def equilibrium(function: Map, start: Tensor, solve: SystemSolver) -> Tensor:
    """A fixed point of ``function``, differentiable in whatever ``function`` depends on."""
    with torch.no_grad():
        root = anderson(function, start, solve)
    root = root.detach().requires_grad_()
    value = function(root)

    def implicit_gradient(gradient: Tensor) -> Tensor:
        def transposed(vector: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(value, root, vector, retain_graph=True)
            return product + gradient

        hook.remove()
        return anderson(transposed, torch.zeros_like(gradient), solve)

    hook = value.register_hook(implicit_gradient)
    return value
