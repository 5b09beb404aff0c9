"""The reflection of a natural parameter onto the half line where nothing cancels."""

from __future__ import annotations

import torch
from torch import Tensor


def sign_to_negative(eta: Tensor) -> Tensor:
    """The sign, a constant for autograd, that makes ``eta`` times it negative or zero.

    A family with two interchangeable outcomes has the same entropy and divergences at ``eta`` and
    at ``-eta``. At a positive parameter they are differences of numbers of its size, which cancel.
    """
    return torch.where(eta > 0, -torch.ones_like(eta), torch.ones_like(eta)).detach()
