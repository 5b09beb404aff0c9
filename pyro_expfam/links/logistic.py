"""Functions of log odds."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.links.formulas import by_formula, leibniz


def softplus(eta: Tensor) -> Tensor:
    """The function ``log(1 + exp(eta))``; its autograd is accurate to the dtype."""
    # The default threshold, 20, is one of single precision.
    return torch.nn.functional.softplus(eta, threshold=40)


def softplus_of_tails(eta: Tensor) -> Tensor:
    """The same function, with derivatives of relative accuracy in both tails."""
    return by_formula(_softplus_derivative, eta)


def sigmoid(eta: Tensor) -> Tensor:
    """The logistic sigmoid, with derivatives of relative accuracy also where it is close to 1."""
    return by_formula(_sigmoid_derivative, eta)


def _softplus_derivative(eta: Tensor, order: int) -> Tensor:
    return softplus(eta) if order == 0 else _sigmoid_derivative(eta, order - 1)


def _sigmoid_derivative(eta: Tensor, order: int) -> Tensor:
    shares, rests = [torch.sigmoid(eta)], [torch.sigmoid(-eta)]
    for _ in range(order):
        shares.append(leibniz(shares, rests))
        rests.append(-shares[-1])
    return shares[-1]


def log_odds(count: Tensor, total: int | Tensor) -> Tensor:
    """The logarithm of ``count / (total - count)``, with relative accuracy near even odds."""
    balance = (2 * count - total) / total
    even = balance.abs() < 0.5
    near = 2 * torch.atanh(torch.where(even, balance, 0.0))
    return torch.where(even, near, count.log() - (total - count).log())
