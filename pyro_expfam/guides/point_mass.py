"""The law of latents that are the root itself."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class PointMass(dist.Delta):
    """A point mass at vectors, whose log density there is known to be zero.

    Pyro's own compares the value with itself, entry by entry.

    Args:
        v: the vectors, ``(..., N, l)``.
    """

    def __init__(self, v: Tensor) -> None:
        zero = torch.zeros((), dtype=v.dtype, device=v.device).expand(v.shape[:-1])
        super().__init__(v, zero, event_dim=1, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """The vectors."""
        return super().rsample(sample_shape) if sample_shape else self.v

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The law with other batch dimensions."""
        if tuple(batch_shape) == self.batch_shape:
            return self
        return dist.Delta(self.v, self.log_density, event_dim=1).expand(batch_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density: zero at the vectors themselves."""
        return self.log_density if x is self.v else super().log_prob(x)
