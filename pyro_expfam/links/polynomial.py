"""Polynomials by Horner's rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """The polynomial with ``coefficients`` in rising order, at ``x``."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        constant = torch.full((), coefficient, dtype=x.dtype, device=x.device)
        result = torch.addcmul(constant, result, x)
    return result
