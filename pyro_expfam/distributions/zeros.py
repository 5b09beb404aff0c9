"""Laws of counts without zeros, or with more of them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import FamilyDistribution, family_support


class ZeroTruncatedPoisson(ExponentialFamilyDistribution):
    r"""The law of Poisson counts that are not zero, by the log rate of the Poisson law.

    Shapes: the batch shape is the shape of ``natural_param``.

    Args:
        natural_param: the linear predictor, any real number.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``natural_param`` is not a
            number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.ZeroTruncatedPoisson(torch.tensor([-10.0, 0.0])).mean
        tensor([1.0000, 1.5820])

    Source: Johnson, Kemp and Kotz (2005), section 4.10.1.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {}

    family: families.ZeroTruncatedPoisson

    def __init__(
        self,
        natural_param: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.ZeroTruncatedPoisson(), natural_param, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        above = self._checked(value).detach().floor() + 1
        rate = torch.exp(self.natural_param)
        # The probability of more events, over the probability of any.
        beyond = torch.special.gammainc(above.clamp(min=2), rate) / -torch.expm1(-rate)
        return torch.where(above < 2, 0.0, 1 - torch.where(rate > 0, beyond, 0.0))


class ZeroInflatedPoisson(FamilyDistribution):
    r"""The law of Poisson counts with additional zeros, by the log rate of the Poisson law.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``zero_probability``.

    Args:
        predictor: the linear predictor, any real number.
        zero_probability: the probability of an additional zero, above 0 and below 1.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``zero_probability`` is outside of its set; with validation, if ``predictor``
            is not a number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.ZeroInflatedPoisson(torch.zeros(2), zero_probability=0.5)
        >>> law.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.6839, 0.1839])

    Source: Lambert (1992), *Zero-inflated Poisson regression*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "zero_probability": constraints.unit_interval,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"zero_probability": "zero_probability"}

    family: families.ZeroInflatedPoisson

    def __init__(
        self,
        predictor: Tensor | float,
        zero_probability: Tensor | float = 0.5,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.ZeroInflatedPoisson(zero_probability), predictor, validate_args)

    @property
    def zero_probability(self) -> Tensor:
        """The probability of an additional zero, in the batch shape."""
        return self._parameter("zero_probability")


class ZeroInflatedNegativeBinomial(FamilyDistribution):
    r"""The law of negative binomial counts with additional zeros, by the log mean of the others.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``size`` and
    ``zero_probability``.

    Args:
        predictor: the linear predictor, any real number.
        size: the size of the negative binomial law, positive.
        zero_probability: the probability of an additional zero, above 0 and below 1.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``size`` is outside of its set or ``zero_probability`` is outside of its set;
            with validation, if ``predictor`` is not a number or an observation is outside of the
            support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.ZeroInflatedNegativeBinomial(torch.zeros(2))
        >>> law.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.7500, 0.1250])

    Source: Greene (1994), *Accounting for excess zeros and sample selection*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "size": constraints.positive,
        "zero_probability": constraints.unit_interval,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"size": "size", "zero_probability": "zero_probability"}

    family: families.ZeroInflatedNegativeBinomial

    def __init__(
        self,
        predictor: Tensor | float,
        size: Tensor | float = 1.0,
        zero_probability: Tensor | float = 0.5,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            families.ZeroInflatedNegativeBinomial(size, zero_probability), predictor, validate_args
        )

    @property
    def size(self) -> Tensor:
        """The size of the negative binomial law, in the batch shape."""
        return self._parameter("size")

    @property
    def zero_probability(self) -> Tensor:
        """The probability of an additional zero, in the batch shape."""
        return self._parameter("zero_probability")
