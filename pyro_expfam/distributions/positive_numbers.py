"""Laws of observations of which a function follows a simpler law: Weibull, Pareto, log-normal."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.distributions.law import FamilyDistribution, Shape, family_support


class TransformedDistribution(FamilyDistribution):
    """A law of observations of which a function follows an exponential or a normal law."""

    family: families.Transformed
    has_rsample = True

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, differentiable in the parameters."""
        return self.family.inverse(self._standard_draws(sample_shape))

    def _standard_draws(self, sample_shape: Shape) -> Tensor:
        """Differentiable draws from the exponential law of mean ``exp(predictor)``."""
        noise = torch.empty(**self._draw_options(sample_shape)).exponential_()
        return torch.exp(self.predictor) * noise

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        transformed = self.family.transform(self._checked(value))
        return -torch.expm1(-transformed * torch.exp(-self.predictor))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at the probability ``value``, between 0 and 1."""
        return self.family.inverse(-torch.log1p(-value) * torch.exp(self.predictor))


class Weibull(TransformedDistribution):
    r"""The law of positive numbers whose power ``concentration`` has mean ``exp(predictor)``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``concentration``.

    Args:
        predictor: the linear predictor, any real number.
        concentration: the shape parameter of the family, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``concentration`` is outside of its set; with validation, if ``predictor`` is
            not a number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Weibull(torch.zeros(2), concentration=2.0).mean
        tensor([0.8862, 0.8862])

    Source: Kalbfleisch and Prentice (2002), section 2.2.2.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "concentration": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"concentration": "shape"}

    family: families.Weibull

    def __init__(
        self,
        predictor: Tensor | float,
        concentration: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Weibull(concentration), predictor, validate_args)

    @property
    def concentration(self) -> Tensor:
        """The shape parameter of the family, in the batch shape."""
        return self._parameter("shape")


class Pareto(TransformedDistribution):
    r"""The law of numbers above ``scale`` whose log ratio to it has mean ``exp(predictor)``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``scale``.

    Args:
        predictor: the linear predictor, any real number.
        scale: the threshold, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``scale`` is outside of its set; with validation, if ``predictor`` is not a
            number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Pareto(torch.tensor([-1.0, 0.0]), scale=2.0).mean
        tensor([3.1640,    inf])

    Source: Johnson, Kotz and Balakrishnan (1994), volume 1, chapter 20.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"scale": "scale"}

    family: families.Pareto

    def __init__(
        self,
        predictor: Tensor | float,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Pareto(scale), predictor, validate_args)

    @property
    def scale(self) -> Tensor:
        """The threshold, in the batch shape."""
        return self._parameter("scale")


class LogNormal(TransformedDistribution):
    r"""The law of positive numbers whose logarithm is normal, with mean ``scale * predictor``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``scale``.

    Args:
        predictor: the linear predictor, any real number.
        scale: the standard deviation of the logarithm, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``scale`` is outside of its set; with validation, if ``predictor`` is not a
            number or an observation is outside of the support.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.LogNormal(torch.tensor([0.0, 2.0]), scale=0.5).mean
        tensor([1.1331, 3.0802])

    Source: Johnson, Kotz and Balakrishnan (1994), volume 1, chapter 14.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {"scale": "scale"}

    family: families.LogNormal

    def __init__(
        self,
        predictor: Tensor | float,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.LogNormal(scale), predictor, validate_args)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of the logarithm, in the batch shape."""
        return self._parameter("scale")

    def _standard_draws(self, sample_shape: Shape) -> Tensor:
        """Differentiable draws of the logarithm."""
        noise = torch.randn(**self._draw_options(sample_shape))
        return (self.predictor + noise) * self.scale

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        return torch.special.ndtr(torch.log(self._checked(value)) / self.scale - self.predictor)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at the probability ``value``, between 0 and 1."""
        return self.family.inverse((self.predictor + torch.special.ndtri(value)) * self.scale)
