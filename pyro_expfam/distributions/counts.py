"""Laws of counts: Poisson, negative binomial and binomial."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_expfam import families
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import FamilyDistribution, family_support
from pyro_expfam.links.logistic import softplus


class Poisson(ExponentialFamilyDistribution):
    """The law of counts with mean ``exp(natural_param)``.

    Shapes: the batch shape is the shape of ``natural_param``.

    Args:
        natural_param: the natural parameter, any real number: the log rate.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``natural_param`` is not a number or an observation is
            neither 0 nor a positive integer.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Poisson(torch.zeros(2)).cdf(torch.tensor([0.0, 1.0]))
        tensor([0.3679, 0.7358])

    Source: Table 1 of Tsuchida and Ong, row 5.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)

    _parameters: ClassVar[dict[str, str]] = {}

    def __init__(self, natural_param: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(families.Poisson(), natural_param, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``.

        Source: a regularised incomplete gamma function; Abramowitz and Stegun (1964), 26.4.21.
        """
        # A step function has no gradient in value, and gammaincc would raise an error for one.
        above = self._checked(value).detach().floor() + 1
        rate = self.family.mean(self.natural_param)
        return torch.where(above < 1, 0.0, torch.special.gammaincc(above.clamp(min=1), rate))


class NegativeBinomial(FamilyDistribution):
    r"""The law of counts with mean ``exp(predictor)`` and variance ``mean + mean ** 2 / size``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``size``.

    Args:
        predictor: the linear predictor, any real number: the log mean.
        size: the size, positive: the shape of the gamma law of the rate.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``size`` is not positive; with validation, if ``predictor`` is not a number
            or an observation is neither 0 nor a positive integer.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.NegativeBinomial(torch.tensor([0.0, 1.0]), size=2.0)
        >>> law.mean, law.variance
        (tensor([1.0000, 2.7183]), tensor([1.5000, 6.4128]))

    Source: Lawless (1987), *Negative binomial and mixed Poisson regression*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "size": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    _parameters: ClassVar[dict[str, str]] = {"size": "size"}

    family: families.NegativeBinomial

    def __init__(
        self,
        predictor: Tensor | float,
        size: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.NegativeBinomial(size), predictor, validate_args)

    @property
    def size(self) -> Tensor:
        """The size, in the batch shape."""
        return self._parameter("size")


class Geometric(NegativeBinomial):
    """The law of counts of failures before the first success, with mean ``exp(predictor)``.

    Shapes: the batch shape is the shape of ``predictor``.

    Args:
        predictor: the linear predictor, any real number: the log mean, and the log odds of a
            failure.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``predictor`` is not a number or an observation is neither 0
            nor a positive integer.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Geometric(torch.zeros(2)).cdf(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.7500])

    Source: Johnson, Kemp and Kotz (2005), *Univariate discrete distributions*, section 5.2.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"predictor": constraints.real}
    _parameters: ClassVar[dict[str, str]] = {}

    family: families.Geometric

    def __init__(self, predictor: Tensor | float, validate_args: bool | None = None) -> None:
        FamilyDistribution.__init__(self, families.Geometric(), predictor, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        above = self._checked(value).detach().floor() + 1
        return -torch.expm1(-above.clamp(min=0) * softplus(-self.predictor))

    def entropy(self) -> Tensor:
        """The entropy of an observation, in the batch shape."""
        mean = torch.exp(self.predictor)
        return softplus(self.predictor) + mean * softplus(-self.predictor)


class PoissonLogNormal(FamilyDistribution):
    r"""The law of Poisson counts whose log rate is normal around ``predictor``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``scale``.

    Args:
        predictor: the linear predictor, any real number: the mean of the log rate.
        scale: the standard deviation of the log rate, positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``scale`` is not positive; with validation, if ``predictor`` is not a number
            or an observation is neither 0 nor a positive integer.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.PoissonLogNormal(torch.tensor([0.0, 1.0]), scale=0.5)
        >>> law.mean, law.variance
        (tensor([1.1331, 3.0802]), tensor([1.4978, 5.7750]))

    Source: Aitchison and Ho (1989), *The multivariate Poisson-log normal distribution*.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    _parameters: ClassVar[dict[str, str]] = {"scale": "scale"}

    family: families.PoissonLogNormal

    def __init__(
        self,
        predictor: Tensor | float,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.PoissonLogNormal(scale), predictor, validate_args)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of the log rate, in the batch shape."""
        return self._parameter("scale")


class Binomial(ExponentialFamilyDistribution):
    """The law of the number of successes in ``total_count`` trials of log odds ``natural_param``.

    Shapes: the batch shape is the shape of ``natural_param`` broadcast with ``total_count``.

    Args:
        natural_param: the natural parameter, any real number.
        total_count: the number of trials, a positive integer.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``total_count`` is not a positive integer; with validation, if
            ``natural_param`` is not a number or an observation is not an integer from 0 to
            ``total_count``.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Binomial(torch.tensor([0.0, 1.0]), total_count=10)
        >>> law.mean
        tensor([5.0000, 7.3106])
        >>> law.enumerate_support(expand=False).shape
        torch.Size([11, 1])

    Source: McCullagh and Nelder (1989), section 4.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real,
        "total_count": constraints.positive_integer,
    }
    support = constraints.dependent_property(family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True
    _parameters: ClassVar[dict[str, str]] = {"total_count": "total_count"}

    family: families.Binomial

    def __init__(
        self,
        natural_param: Tensor | float,
        total_count: Tensor | int = 1,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Binomial(total_count), natural_param, validate_args)

    @property
    def total_count(self) -> Tensor:
        """The number of trials, in the batch shape."""
        return self._parameter("total_count")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The counts from 0 to ``total_count``, along a new first dimension.

        Args:
            expand: whether the other dimensions have the batch shape; otherwise they have size 1.

        Raises:
            NotImplementedError: if ``total_count`` differs within the batch.
        """
        total_count = torch.as_tensor(self.family.total_count)
        largest = int(total_count.max())
        if int(total_count.min()) != largest:
            raise NotImplementedError(
                "enumerate_support needs one total_count for the whole batch, got counts from "
                f"{int(total_count.min())} to {largest}"
            )
        return self._enumerated(torch.arange(largest + 1), expand)


@register_kl(Binomial, Binomial)
def _kl_binomial(p: Binomial, q: Binomial) -> Tensor:
    """The Bregman divergence for equal counts, infinite if ``p`` has values that ``q`` lacks."""
    if (p.total_count < q.total_count).any():
        raise NotImplementedError(
            "the divergence between binomials has no closed form if the second has the "
            "larger total_count"
        )
    divergence = p.family.kl_divergence(p.natural_param, q.natural_param)
    return torch.where(p.total_count > q.total_count, torch.inf, divergence)
