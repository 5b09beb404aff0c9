"""The law of proportions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, family_support


class Beta(FamilyDistribution):
    r"""The law of proportions with mean ``sigmoid(predictor)``.

    The variance is ``mean * (1 - mean) / (1 + precision)``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``precision``.

    Args:
        predictor: the linear predictor, any real number.
        precision: the precision, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``precision`` is outside of its set; with validation, if ``predictor`` is not
            a number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Beta(torch.tensor([0.0, 2.0]), precision=4.0)
        >>> law.mean, law.variance
        (tensor([0.5000, 0.8808]), tensor([0.0500, 0.0210]))

    Source: Ferrari and Cribari-Neto (2004), *Beta regression for modelling rates and proportions*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "precision": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"precision": "precision"}

    family: families.Beta

    def __init__(
        self,
        predictor: Tensor | float,
        precision: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Beta(precision), predictor, validate_args)

    @property
    def precision(self) -> Tensor:
        """The precision, in the batch shape."""
        return self._parameter("precision")
