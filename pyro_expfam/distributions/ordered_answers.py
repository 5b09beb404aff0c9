"""The law of ordered answers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, family_support


class Ordinal(FamilyDistribution):
    """The law of ordered answers ``0, ..., K - 1``, by a cumulative logit.

    An answer is the number of cut points below a logistic variable around ``predictor``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``cut_points`` without
    their last dimension.

    Args:
        predictor: the linear predictor, any real number.
        cut_points: the ``K - 1`` cut points in increasing order, ``(..., K - 1)``.
        validate_args: whether to check the predictor and observations.

    Raises:
        TypeError: if ``cut_points`` holds no real numbers.
        ValueError: if ``cut_points`` is not increasing; with validation, if ``predictor`` is not a
            number or an observation is not an integer from 0 to ``K - 1``.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Ordinal(torch.tensor([0.0, 2.0]), cut_points=[-1.0, 1.0])
        >>> law.log_prob(torch.tensor([1.0, 2.0])).exp()
        tensor([0.4621, 0.7311])

    Source: McCullagh (1980), *Regression models for ordinal data*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "cut_points": constraints.ordered_vector,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True
    _parameters: ClassVar[dict[str, str]] = {}

    family: families.Ordinal

    def __init__(
        self, predictor: Tensor | float, cut_points: Any, validate_args: bool | None = None
    ) -> None:
        shape = getattr(cut_points, "shape", None) or torch.as_tensor(cut_points).shape
        family = families.Ordinal(int(shape[-1]) + 1, cut_points)
        super().__init__(family, predictor, validate_args)

    @property
    def cut_points(self) -> Tensor:
        """The cut points, ``(K - 1,)`` or ``(..., K - 1)``."""
        return self.family.cut_points(self._eta)

    @classmethod
    def infer_shapes(cls, **arg_shapes: tuple[int, ...]) -> tuple[torch.Size, torch.Size]:
        """The batch and event shape that arguments of these shapes would give.

        Args:
            **arg_shapes: the shape of each argument, ``()`` for an argument that is not a tensor.
        """
        cut_points = arg_shapes.get("cut_points", ())
        return super().infer_shapes(**{**arg_shapes, "cut_points": cut_points[:-1]})

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an answer of at most ``value``."""
        answer = self._checked(value).detach().floor()
        cuts = self.cut_points
        above = torch.sigmoid(cuts - self._eta.unsqueeze(-1))
        one, none = torch.ones_like(above[..., :1]), torch.zeros_like(above[..., :1])
        below = torch.cat([none, above, one], -1)
        place = (answer + 1).long().clamp(0, self.family.levels)
        shape = torch.broadcast_shapes(below.shape[:-1], place.shape)
        wide = below.expand(*shape, below.shape[-1])
        return wide.gather(-1, place.expand(shape).unsqueeze(-1)).squeeze(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The answers from 0 on, along a new first dimension.

        Args:
            expand: whether the other dimensions have the batch shape; otherwise they have size 1.
        """
        return self._enumerated(torch.arange(self.family.levels), expand)
