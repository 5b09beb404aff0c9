"""The prior of learnt parameters of a family as a distribution of Pyro."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_expfam.families.common_prior import CommonPrior


class ParameterLaw(dist.TransformedDistribution):
    """A law of parameters in a set, by a law of their unconstrained numbers.

    Its support is the set. The codomain of PyTorch's transform to a set may be all real numbers.

    Attributes:
        constraint: the set of one number.
    """

    constraint: constraints.Constraint

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """The set, for all numbers of the parameter."""
        return constraints.independent(self.constraint, len(self.event_shape))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ParameterLaw:
        """The same law for a batch."""
        other: ParameterLaw = super().expand(batch_shape, _instance)
        other.constraint = self.constraint
        return other


def parameter_law(
    prior: CommonPrior | None, constraint: constraints.Constraint, like: Tensor
) -> dist.TorchDistribution:
    """The law of the values of a parameter.

    Values per column are normal around a common value on their unconstrained scale, with the common
    value integrated out. A flat prior has the density 1 on this scale too, and no draws.

    Args:
        prior: the prior, or None for a flat one.
        constraint: the set of the values.
        like: present values, ``()`` or one per column, ``(d,)``.
    """
    base: dist.TorchDistribution
    if prior is None:
        base = dist.ImproperUniform(constraints.real, like.shape[:0], like.shape)
    else:
        ones = torch.ones_like(like)
        base = dist.LowRankMultivariateNormal(
            prior.centre * ones, prior.centre_scale * ones[:, None], prior.scale**2 * ones
        )
    law = ParameterLaw(base, [transform_to(constraint)])
    law.constraint = constraint
    return law
