"""The law of amounts that are zero or positive."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, family_support


class Tweedie(FamilyDistribution):
    r"""The law of amounts, zero or positive, with mean ``exp(predictor)``.

    The variance is ``dispersion`` times the mean to the ``power``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``power`` and
    ``dispersion``.

    Args:
        predictor: the linear predictor, any real number.
        power: the power of the variance, above 1 and below 2.
        dispersion: the dispersion, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``power`` is outside of its set or ``dispersion`` is outside of its set; with
            validation, if ``predictor`` is not a number or an observation is outside of the
            support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Tweedie(torch.zeros(2), power=1.5, dispersion=2.0)
        >>> law.log_prob(torch.tensor([0.0, 1.0]))
        tensor([-1.0000, -1.5359])

    Source: Jørgensen (1997), *The theory of dispersion models*, chapter 4.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "power": constraints.interval(1.0, 2.0),
        "dispersion": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"power": "power", "dispersion": "dispersion"}

    family: families.Tweedie

    def __init__(
        self,
        predictor: Tensor | float,
        power: Tensor | float = 1.5,
        dispersion: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Tweedie(power, dispersion), predictor, validate_args)

    @property
    def power(self) -> Tensor:
        """The power of the variance, in the batch shape."""
        return self._parameter("power")

    @property
    def dispersion(self) -> Tensor:
        """The dispersion, in the batch shape."""
        return self._parameter("dispersion")
