"""The law of categories."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, Shape, family_support


class Categorical(FamilyDistribution):
    """The law of a category with log odds ``predictor``.

    Shapes: the last dimension of ``predictor`` holds the levels of each column side by side,
    ``(..., d K)``. The batch shape is ``(..., d)``, and an observation is the number of a level.

    Args:
        predictor: the linear predictors.
        levels: the number of categories ``K``.
        validate_args: whether to check the observations.

    Raises:
        ValueError: if the last dimension of ``predictor`` is no multiple of ``levels``; with
            validation, if an observation is not the number of a level.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Categorical(torch.zeros(5, 6), levels=3)
        >>> law.batch_shape
        torch.Size([5, 2])
        >>> law.log_prob(torch.zeros(5, 2))[0]
        tensor([-1.0986, -1.0986])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True
    _parameters: ClassVar[dict[str, str] | None] = {"levels": "levels"}

    family: families.Categorical

    def __init__(self, predictor: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self._set(families.Categorical(levels), predictor, validate_args)

    @classmethod
    def of(
        cls, family: families.Categorical, predictor: Tensor, validate_args: bool | None = None
    ) -> Categorical:
        """The law of a family at linear predictors."""
        law = cls.__new__(cls)
        law._set(family, predictor, validate_args)
        return law

    def _set(
        self, family: families.Categorical, predictor: Tensor, validate_args: bool | None
    ) -> None:
        if predictor.dim() < 1 or predictor.shape[-1] % family.levels:
            raise ValueError(
                f"predictor must have {family.levels} entries for each column in its last "
                f"dimension, got shape {tuple(predictor.shape)}"
            )
        self.family, self.predictor = family, predictor
        by_column = predictor.unflatten(-1, (-1, family.levels))
        super(FamilyDistribution, self).__init__(by_column.shape[:-1], validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """The log probabilities of the levels, ``(..., d, K)``."""
        return self.family.log_probabilities(self.predictor).unflatten(-1, (-1, self.family.levels))

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Categorical:
        """This law with its batch dimensions expanded to ``batch_shape``, sharing memory."""
        by_column = self.predictor.unflatten(-1, (-1, self.family.levels))
        wider = by_column.expand(*batch_shape, self.family.levels).flatten(-2)
        law = Categorical.of(self.family, wider, False)
        law._validate_args = self._validate_args
        return law

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each level, in the batch shape."""
        index = self._checked(value).long().unsqueeze(-1)
        logits = self.logits
        shape = torch.broadcast_shapes(index.shape[:-1], logits.shape[:-1])
        chosen = logits.expand(*shape, -1).gather(-1, index.expand(*shape, 1))
        return chosen.squeeze(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Numbers of levels, of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            drawn = self.family.sample(self.predictor, torch.Size(sample_shape))
            return self.family.decode(drawn)

    @property
    def mean(self) -> Tensor:
        """The mean of the number of the level."""
        levels = torch.arange(self.family.levels).to(self.predictor)
        return (self.logits.exp() * levels).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the number of the level."""
        levels = torch.arange(self.family.levels).to(self.predictor)
        distance = levels - self.mean.unsqueeze(-1)
        return (self.logits.exp() * distance.square()).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All levels, in a new first dimension."""
        levels = torch.arange(self.family.levels)
        return self._enumerated(levels, expand)
