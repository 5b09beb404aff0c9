"""Laws of real numbers: normal, gamma and continuous Bernoulli."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_expfam import families
from pyro_expfam.distributions.exponential_family import ExponentialFamilyDistribution
from pyro_expfam.distributions.law import FamilyDistribution, Shape, family_support
from pyro_expfam.families.gamma import log_normaliser
from pyro_expfam.families.positive import log_minus_digamma


class Gaussian(ExponentialFamilyDistribution):
    r"""The normal law with mean ``scale * natural_param`` and standard deviation ``scale``.

    Shapes: the batch shape is the shape of ``natural_param`` broadcast with ``scale``.

    Args:
        natural_param: the natural parameter, any real number.
        scale: the standard deviation, known and positive.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``scale`` is not positive; with validation, if ``natural_param`` or an
            observation is not a number.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Gaussian(torch.tensor([0.0, 1.0]), scale=2.0)
        >>> law.mean, law.variance
        (tensor([0., 2.]), tensor([4., 4.]))

    Source: Table 1 of Tsuchida and Ong, row 1, with ``b`` the scale.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)
    has_rsample = True
    _parameters: ClassVar[dict[str, str]] = {"scale": "scale"}

    family: families.Gaussian

    def __init__(
        self,
        natural_param: Tensor | float,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Gaussian(scale), natural_param, validate_args)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, in the batch shape."""
        return self._parameter("scale")

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, differentiable in the parameters."""
        noise = torch.randn(**self._draw_options(sample_shape))
        return self.family.observation(self.natural_param + noise)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        statistic = self.family.sufficient_statistic(self._checked(value))
        return torch.special.ndtr(statistic - self.natural_param)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at the probability ``value``, between 0 and 1."""
        return self.family.observation(self.natural_param + torch.special.ndtri(value))


class ContinuousBernoulli(ExponentialFamilyDistribution):
    r"""The law on [0, 1] with density proportional to :math:`e^{r y}` for the parameter ``r``.

    Shapes: the batch shape is the shape of ``natural_param``.

    Args:
        natural_param: the natural parameter, any real number; 0 gives the uniform law.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``natural_param`` is not a number or an observation is
            outside [0, 1].

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.ContinuousBernoulli(torch.tensor([-5.0, 0.0, 5.0]))
        >>> law.icdf(torch.tensor(0.5))
        tensor([0.1373, 0.5000, 0.8627])

    Source: Table 1 of Tsuchida and Ong, row 4; Loaiza-Ganem and Cunningham (2019).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "natural_param": constraints.real
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)
    has_rsample = True

    _parameters: ClassVar[dict[str, str]] = {}

    def __init__(self, natural_param: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(families.ContinuousBernoulli(), natural_param, validate_args)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, differentiable in the parameter."""
        return self.icdf(torch.rand(**self._draw_options(sample_shape)))

    def cdf(self, value: Tensor) -> Tensor:
        r"""The probability of an observation of at most ``value``.

        It is the integral of the density, :math:`(e^{r y} - 1) / (e^r - 1)`, which equals
        :math:`y\,e^{A(r y) - A(r)}` and is as accurate as the log-partition.
        """
        y = self._checked(value).clamp(0, 1)
        log_partition = self.family.log_partition
        return y * (log_partition(self.natural_param * y) - log_partition(self.natural_param)).exp()

    def icdf(self, value: Tensor) -> Tensor:
        r"""The quantile at the probability ``value``, between 0 and 1.

        It is the inverse of :meth:`cdf`, :math:`\log(1 - u + u e^r) / r`: the cumulant generating
        function of a Bernoulli variable of mean ``u``, divided by ``r``. Near ``r = 0`` it is
        summed from the first five cumulants (Kendall and Stuart, 1977, section 5.4). In double
        precision the error of values is below 1e-13, and the relative error of gradients below
        1e-10.
        """
        eta = self.natural_param
        near_zero = eta.abs() < 4 * torch.finfo(eta.dtype).eps ** (1 / 6)
        away = torch.where(near_zero, 1.0, eta)
        exact = torch.logaddexp(torch.log1p(-value), torch.log(value) + away) / away
        near = torch.where(near_zero, eta, 0.0)
        variance, skew = value * (1 - value), 1 - 2 * value
        fourth = 1 - 6 * variance + near / 5 * skew * (1 - 12 * variance)
        series = value + near / 2 * variance * (1 + near / 3 * (skew + near / 4 * fourth))
        return torch.where(near_zero, series, exact).clamp(0, 1)


class Gamma(FamilyDistribution):
    r"""The law of positive numbers with mean ``exp(predictor)`` and a known relative spread.

    The variance is the squared mean over ``concentration``.

    Shapes: the batch shape is the shape of ``predictor`` broadcast with ``concentration``.

    Args:
        predictor: the linear predictor, any real number: the log mean.
        concentration: the shape parameter of the family, positive: one over the squared
            coefficient of variation.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: if ``concentration`` is not positive; with validation, if ``predictor`` is not a
            number or an observation is not positive.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> law = distributions.Gamma(torch.tensor([0.0, 1.0]), concentration=4.0)
        >>> law.mean, law.variance
        (tensor([1.0000, 2.7183]), tensor([0.2500, 1.8473]))

    Source: McCullagh and Nelder (1989), section 8.2.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "predictor": constraints.real,
        "concentration": constraints.positive,
    }
    support = constraints.dependent_property(family_support, is_discrete=False, event_dim=0)
    has_rsample = True
    _parameters: ClassVar[dict[str, str]] = {"concentration": "shape"}

    family: families.Gamma

    def __init__(
        self,
        predictor: Tensor | float,
        concentration: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(families.Gamma(concentration), predictor, validate_args)

    @property
    def concentration(self) -> Tensor:
        """The shape parameter, in the batch shape."""
        return self._parameter("shape")

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, differentiable in the parameters."""
        shape = self.concentration.expand(self._extended_shape(sample_shape)).double()
        factor = torch._standard_gamma(shape) / shape
        draws = (self.predictor.double().exp() * factor).to(self.predictor.dtype)
        # A draw that rounds to zero is outside of the support.
        return draws.clamp(min=torch.finfo(draws.dtype).tiny)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``; no gradient in the shape.

        Source: a regularised incomplete gamma function; Abramowitz and Stegun (1964), 26.4.19.
        """
        ratio = self._checked(value) * torch.exp(-self.predictor)
        shape = self.concentration.detach()
        return torch.special.gammainc(shape, shape * ratio)


class Exponential(Gamma):
    """The law of durations without memory, with mean ``exp(predictor)``.

    Shapes: the batch shape is the shape of ``predictor``.

    Args:
        predictor: the linear predictor, any real number: the log mean.
        validate_args: whether to check parameters and observations.

    Raises:
        ValueError: with validation, if ``predictor`` is not a number or an observation is not
            positive.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions
        >>> distributions.Exponential(torch.zeros(2)).cdf(torch.tensor([1.0, 2.0]))
        tensor([0.6321, 0.8647])

    Source: McCullagh and Nelder (1989), section 13.3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"predictor": constraints.real}
    _parameters: ClassVar[dict[str, str]] = {}

    family: families.Exponential

    def __init__(self, predictor: Tensor | float, validate_args: bool | None = None) -> None:
        FamilyDistribution.__init__(self, families.Exponential(), predictor, validate_args)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at the probability ``value``, between 0 and 1."""
        return -torch.log1p(-value) * torch.exp(self.predictor)


@register_kl(Gaussian, Gaussian)
def _kl_gaussian(p: Gaussian, q: Gaussian) -> Tensor:
    """Source: Kullback (1959), chapter 9, for one dimension."""
    ratio = p.scale / q.scale
    difference = ratio * p.natural_param - q.natural_param
    return (ratio.square() + difference.square() - 1) / 2 - ratio.log()


@register_kl(Gamma, Gamma)
def _kl_gamma(p: Gamma, q: Gamma) -> Tensor:
    """The divergence at the shape of ``q``, and the one of the shapes at equal means.

    Source: Penny (2001), *Kullback-Liebler divergences of normal, gamma, Dirichlet and Wishart
    densities*.
    """
    shape, other = p.concentration.double(), q.concentration.double()
    of_shapes = log_normaliser(shape) - log_normaliser(other)
    of_shapes = of_shapes - (shape - other) * log_minus_digamma(shape)
    return q.family.kl_divergence(p.predictor, q.predictor) + of_shapes.to(p.predictor.dtype)
