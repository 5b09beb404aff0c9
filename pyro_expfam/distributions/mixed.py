"""The law of the entries of a mixed table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.distributions.law import FamilyDistribution, Shape, family_support
from pyro_expfam.families import Columns
from pyro_expfam.families.kinds import take


class MixedDistribution(FamilyDistribution):
    """The law of the entries of a mixed table, given their linear predictors.

    Shapes: the last dimension of ``predictor`` holds the linear predictors of a row, one for each
    column, and one for each level of a categorical column. The batch shape is ``(..., d)`` for
    ``d`` columns. The function :func:`distribution` makes it.

    Args:
        family: the laws of the columns.
        predictor: the linear predictors.
        parts: the distributions of the columns of each law.
        validate_args: whether to check the observations.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families as F
        >>> family = F.Columns({"smoker": F.Bernoulli(), "colour": F.Categorical(3)})
        >>> law = distributions.distribution(family, torch.zeros(5, 4))
        >>> law.log_prob(torch.zeros(5, 2))[0]
        tensor([-0.6931, -1.0986])
    """

    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    family: Columns

    def __init__(
        self,
        family: Columns,
        predictor: Tensor,
        parts: Sequence[FamilyDistribution],
        validate_args: bool | None = None,
    ) -> None:
        self.family, self.predictor, self._parts = family, predictor, list(parts)
        shape = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in parts))
        batch_shape = torch.Size((*shape, family.num_columns))
        super(FamilyDistribution, self).__init__(batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> MixedDistribution:
        """This law with its batch dimensions expanded to ``batch_shape``, sharing memory."""
        outer = tuple(batch_shape)[:-1]
        parts = [part.expand((*outer, part.batch_shape[-1])) for part in self._parts]
        eta = self.predictor.expand(*outer, self.predictor.shape[-1])
        law = MixedDistribution(self.family, eta, parts, False)
        law._validate_args = self._validate_args
        return law

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry, in the batch shape."""
        value = self._checked(value)
        return self._join(lambda part, columns: part.log_prob(take(value, columns)))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Observations of shape ``sample_shape + batch_shape``."""
        return self._join(lambda part, _: part.sample(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of an observation; of a category, of the number of its level."""
        return self._join(lambda part, _: part.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of an observation, likewise."""
        return self._join(lambda part, _: part.variance)

    def _join(self, function: Callable[[FamilyDistribution, Any], Tensor]) -> Tensor:
        """A function of the distribution of each law and the places of its columns."""
        found = [
            function(part, kind.columns)
            for part, kind in zip(self._parts, self.family.parts, strict=True)
        ]
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in found))
        return self.family.join_columns([x.expand(*shape, x.shape[-1]) for x in found])
