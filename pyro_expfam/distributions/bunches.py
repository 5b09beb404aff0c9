"""The law of counts that come in bunches."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, family_support


class BoseEinstein(FamilyDistribution):
    r"""The law of bunches with natural parameter ``-log(1 + exp(-predictor))``.

    Shapes: the batch shape is the shape of ``predictor``.

    Args:
        predictor: the linear predictor, any real number.
        order: the order, a whole number from 0 on.
        spacing: the distance of neighbouring observations, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        TypeError: if ``order`` is not a whole number.
        ValueError: if ``order`` or ``spacing`` is outside of its set; with validation, if
            ``predictor`` is not a number or an observation is no multiple of ``spacing``.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.BoseEinstein(torch.zeros(3), order=1)
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.5586, 0.2793, 0.1047])

    Source: appendix A.4 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "order": constraints.nonnegative_integer,
        "spacing": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    _parameters: ClassVar[dict[str, str]] = {"order": "order", "spacing": "spacing"}

    family: families.BoseEinstein

    def __init__(
        self,
        predictor: Tensor | float,
        order: int = 0,
        spacing: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.BoseEinstein(order, spacing), predictor, validate_args)

    @property
    def order(self) -> Tensor:
        """The order, in the batch shape."""
        return self._parameter("order")

    @property
    def spacing(self) -> Tensor:
        """The distance of neighbouring observations, in the batch shape."""
        return self._parameter("spacing")
