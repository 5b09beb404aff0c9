"""Functions of log odds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def softplus(eta: Tensor) -> Tensor:
    """The function ``log(1 + exp(eta))``; its autograd is accurate to the dtype."""
    # The default threshold, 20, is one of single precision.
    return torch.nn.functional.softplus(eta, threshold=40)


def sigmoid(eta: Tensor) -> Tensor:
    """The logistic sigmoid, with derivatives of relative accuracy also where it is close to 1."""
    return _Sigmoid.apply(eta)


class _Sigmoid(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (eta,) = ctx.saved_tensors
        return gradient * _Sigmoid.apply(eta) * _Sigmoid.apply(-eta)


def log_odds(count: Tensor, total: int | Tensor) -> Tensor:
    """The logarithm of ``count / (total - count)``, with relative accuracy near even odds."""
    balance = (2 * count - total) / total
    even = balance.abs() < 0.5
    near = 2 * torch.atanh(torch.where(even, balance, 0.0))
    return torch.where(even, near, count.log() - (total - count).log())
