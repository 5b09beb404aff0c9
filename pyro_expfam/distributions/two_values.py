"""Laws of bits and of spins."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import family_support


class Bernoulli(ExponentialFamilyDistribution):
    """The law of a bit that is 1 with log odds ``natural_param``.

    Shapes: the batch shape is the shape of ``natural_param``.

    Args:
        natural_param: the natural parameter, any real number.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``natural_param`` is not a number or an observation is
            neither 0 nor 1.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Bernoulli(torch.tensor([0.0, 2.0])).mean
        tensor([0.5000, 0.8808])

    Source: Table 1 of Tsuchida and Ong, row 2.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True

    _parameters: ClassVar[dict[str, str]] = {}

    def __init__(self, natural_param: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(families.Bernoulli(), natural_param, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        return _two_point_cdf(self._checked(value), 0, torch.sigmoid(-self.natural_param))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values 0 and 1, of shape ``(2,) + batch_shape``, or with ones if not expanded."""
        return self._enumerated(torch.arange(2), expand)


class Ising(ExponentialFamilyDistribution):
    """The law of a spin, 1 or -1, with mean ``tanh(natural_param)``.

    Shapes: the batch shape is the shape of ``natural_param``.

    Args:
        natural_param: the natural parameter, any real number: half the log odds.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``natural_param`` is not a number or an observation is
            neither 1 nor -1.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Ising(torch.tensor([0.0, 1.0])).mean
        tensor([0.0000, 0.7616])

    Source: Table 1 of Tsuchida and Ong, row 3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True

    _parameters: ClassVar[dict[str, str]] = {}

    def __init__(self, natural_param: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(families.Ising(), natural_param, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        return _two_point_cdf(self._checked(value), -1, torch.sigmoid(-2 * self.natural_param))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values -1 and 1, of shape ``(2,) + batch_shape``, or with ones if not expanded."""
        return self._enumerated(torch.tensor([-1, 1]), expand)


def _two_point_cdf(value: Tensor, low: int, probability_of_low: Tensor) -> Tensor:
    return torch.where(value < low, 0.0, torch.where(value < 1, probability_of_low, 1.0))
