"""Training as the paper does it: latents and their gradients by Anderson acceleration.

Written from the paper and the behaviour of its published code: a window of past iterates, a ridge
of 1e-4 on their residuals, and a stop when the residual of the whole batch is a thousandth of the
iterate.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WINDOW = 5
MAX_ITER = 50
RIDGE = 1e-4
TOLERANCE = 1e-3

Map = Callable[[Tensor], Tensor]


def anderson(function: Map, start: Tensor) -> Tensor:
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
        alpha = mixing_weights(values[:, :filled] - iterates[:, :filled])
        current = (alpha.unsqueeze(1) @ values[:, :filled]).squeeze(1)
    return best


def mixing_weights(steps: Tensor) -> Tensor:
    """Weights ``(N, k)`` with sum one of least residual, of the steps ``(N, k, l)``."""
    num_rows, size, _ = steps.shape
    system = steps.new_ones(num_rows, size + 1, size + 1)
    system[:, 0, 0] = 0
    system[:, 1:, 1:] = steps @ steps.mT + RIDGE * torch.eye(size)
    target = steps.new_zeros(num_rows, size + 1, 1)
    target[:, 0] = 1
    solution, info = torch.linalg.solve_ex(system, target)
    singular = (info != 0) | ~solution.isfinite().all((1, 2))
    if bool(singular.any()) and bool(system.isfinite().all()):
        # The published code solves every row by least squares, which takes many times as long.
        solution[singular] = torch.linalg.lstsq(system[singular], target[singular]).solution
    return solution[:, 1:, 0]


def equilibrium(function: Map, start: Tensor) -> Tensor:
    """A fixed point of ``function``, differentiable in whatever ``function`` depends on."""
    with torch.no_grad():
        root = anderson(function, start)
    root.requires_grad_()
    value = function(root)

    def implicit_gradient(gradient: Tensor) -> Tensor:
        def transposed(vector: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(value, root, vector, retain_graph=True)
            return product + gradient

        hook.remove()
        return anderson(transposed, torch.zeros_like(gradient))

    hook = value.register_hook(implicit_gradient)
    return value
