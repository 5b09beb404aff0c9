"""Observations whose log densities have weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class WeightedDistribution(TorchDistribution):
    r"""A distribution whose log density is multiplied by a weight per entry.

    It stands in a model for :math:`p(y)^\omega`: an entry of weight 2 counts as two observations
    of the same value, and an entry of weight 0 as none. Draws ignore the weights.

    Args:
        base_dist: the distribution, with an empty event.
        weights: non-negative, broadcastable to its batch.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> law = WeightedDistribution(dist.Normal(torch.zeros(2), 1.0), torch.tensor([1.0, 2.0]))
        >>> law.log_prob(torch.zeros(2))
        tensor([-0.9189, -1.8379])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base_dist: TorchDistribution, weights: Tensor) -> None:
        self.base_dist = base_dist
        self.weights = weights.expand(base_dist.batch_shape)
        super().__init__(base_dist.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeightedDistribution:
        """The same distribution with a larger batch."""
        batch_shape = torch.Size(batch_shape)
        return WeightedDistribution(self.base_dist.expand(batch_shape), self.weights)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable."""
        return self.base_dist.has_rsample

    @property
    def support(self) -> Any:
        """The support of the distribution."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """The mean of the distribution."""
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The variance of the distribution."""
        return self.base_dist.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the unweighted distribution."""
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Differentiable draws of the distribution, where it has them."""
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value`` times the weights."""
        return self.weights * self.base_dist.log_prob(value)
