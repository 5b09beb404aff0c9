"""The laws of categories and of their counts."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
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


class Multinomial(TorchDistribution):
    """The law of the counts of several categories, given their total, by log odds ``predictor``.

    Shapes: the batch shape is the shape of ``predictor`` without its last dimension, broadcast with
    ``total``. The event shape is ``(K,)``: one observation holds the counts of all categories.

    Args:
        predictor: the linear predictors, ``(..., K)``.
        total: the total count, a number or a tensor of whole numbers.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``predictor`` has no dimension; with validation, if ``predictor`` is not a
            number, ``total`` is not a positive whole number, or the counts of an observation have
            another sum.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Multinomial(torch.zeros(5, 3), total=4)
        >>> law.batch_shape, law.event_shape
        (torch.Size([5]), torch.Size([3]))
        >>> law.log_prob(torch.tensor([2.0, 1.0, 1.0]))[0]
        tensor(-1.9095)

    Source: Agresti (2013), *Categorical data analysis*, section 1.2.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real_vector,
        "total": constraints.positive_integer,
    }

    def __init__(
        self, predictor: Tensor, total: Tensor | int, validate_args: bool | None = None
    ) -> None:
        if predictor.dim() < 1:
            raise ValueError("predictor must have an entry for each category, got one number")
        count = torch.as_tensor(total, dtype=predictor.dtype, device=predictor.device)
        batch_shape = torch.broadcast_shapes(predictor.shape[:-1], count.shape)
        self.predictor = predictor.expand(*batch_shape, predictor.shape[-1])
        self.total = count.expand(batch_shape)
        super().__init__(batch_shape, predictor.shape[-1:], validate_args=validate_args)

    @property
    def family(self) -> families.Multinomial:
        """The family with this total."""
        return families.Multinomial(self.total.unsqueeze(-1))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Counts that sum to the total."""
        return constraints.multinomial(self.total)

    @classmethod
    def infer_shapes(cls, **arg_shapes: tuple[int, ...]) -> tuple[torch.Size, torch.Size]:
        """The batch and event shape that arguments of these shapes would give."""
        predictor, total = arg_shapes["predictor"], arg_shapes.get("total", ())
        batch_shape = torch.broadcast_shapes(predictor[:-1], total)
        return batch_shape, torch.Size(predictor[-1:])

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Multinomial:
        """This law with its batch dimensions expanded to ``batch_shape``, sharing memory."""
        wider = self.predictor.expand(*batch_shape, *self.event_shape)
        law = Multinomial(wider, self.total.expand(torch.Size(batch_shape)), False)
        law._validate_args = self._validate_args
        return law

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of the counts ``(..., K)``, without the last dimension."""
        if not value.is_floating_point():
            value = value.to(self.predictor.dtype)
        if self._validate_args:
            self._validate_sample(value)
        return families.Multinomial().log_prob(value, self.predictor).sum(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Counts of shape ``sample_shape + batch_shape + (K,)``."""
        return self.family.sample(self.predictor, torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The expected counts."""
        return self.family.expected_y(self.predictor)

    @property
    def variance(self) -> Tensor:
        """The variances of the counts."""
        return self.family.variance_of_y(self.predictor)
