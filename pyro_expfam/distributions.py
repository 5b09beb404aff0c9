"""Pyro distributions over the exponential families, by natural parameter."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_expfam import families
from pyro_expfam.families import Family

__all__ = [
    "Bernoulli",
    "Binomial",
    "ContinuousBernoulli",
    "ExponentialFamilyDistribution",
    "Gaussian",
    "Ising",
    "Poisson",
    "distribution",
]

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]


def _family_support(self: ExponentialFamilyDistribution) -> constraints.Constraint:
    return self.family.support


class ExponentialFamilyDistribution(TorchDistribution):
    r"""The law :math:`p(y \mid r) = h(y) \exp(r\,T(y) - A(r))` of any family, by ``r``.

    It works for every :class:`~pyro_expfam.families.Family`, also one that a user writes. Each
    family of the package has a class of its own with more functions: see :func:`distribution`.

    Shapes: the batch shape is the shape of ``natural_param``, broadcast with the tensor parameters
    ``scale`` and ``total_count`` of the package's families. Tensors of any other family must
    broadcast to ``natural_param``. The event shape is empty.

    Args:
        family: the exponential family, with a statistic ``T`` that is affine in ``y``.
        natural_param: the natural parameter ``r``, a number or a tensor of any shape.
        validate_args: whether to check the parameter and the observations; by default the setting
            of :func:`pyro.enable_validation`.

    Raises:
        ValueError: with validation, if ``natural_param`` is outside the natural domain of the
            family, or an observation is outside its support or has another shape.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families
        >>> law = distributions.ExponentialFamilyDistribution(families.Poisson(), torch.zeros(3))
        >>> law.mean
        tensor([1., 1., 1.])
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0]))
        tensor([-1.0000, -1.0000, -1.6931])

    Source: equation (1) of Tsuchida and Ong, *When are equilibrium networks scoring
    algorithms?*; Wainwright and Jordan (2008), section 3.
    """

    _family_parameters: ClassVar[tuple[str, ...]] = ()

    support = constraints.dependent_property(_family_support, event_dim=0)

    def __init__(
        self, family: Family, natural_param: Tensor | float, validate_args: bool | None = None
    ) -> None:
        # Not as_tensor, since it warns under a jit trace.
        eta = natural_param if isinstance(natural_param, Tensor) else torch.tensor(natural_param)
        if not eta.is_floating_point():
            eta = eta.to(torch.get_default_dtype())
        family.check_known()
        for name in self._family_parameters:
            parameter = getattr(family, name)
            if isinstance(parameter, Tensor):
                eta = eta.expand(torch.broadcast_shapes(eta.shape, parameter.shape))
        self.family = family
        self.natural_param = eta
        super().__init__(eta.shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The natural parameter lies in the natural domain of the family."""
        return {"natural_param": self.family.natural_domain}

    @classmethod
    def infer_shapes(cls, **arg_shapes: tuple[int, ...]) -> tuple[torch.Size, torch.Size]:
        """The batch and event shape that arguments of these shapes would give.

        Args:
            **arg_shapes: the shape of each argument, ``()`` for an argument that is not a tensor.
        """
        return torch.Size(broadcast_shape(*arg_shapes.values())), torch.Size()

    def expand(
        self, batch_shape: Shape, _instance: ExponentialFamilyDistribution | None = None
    ) -> ExponentialFamilyDistribution:
        """This law with its batch dimensions expanded to ``batch_shape``, sharing memory."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.family = self.family
        new.natural_param = self.natural_param.expand(torch.Size(batch_shape))
        super(ExponentialFamilyDistribution, new).__init__(
            new.natural_param.shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in the shape of ``value`` broadcast with the batch."""
        return self.family.log_prob(self._checked(value), self.natural_param)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, without a gradient."""
        with torch.no_grad():
            return self.family.sample(self.natural_param, torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of an observation, which is affine in the mean of the statistic."""
        return self.family.observation(self.family.mean(self.natural_param))

    @property
    def variance(self) -> Tensor:
        """The variance of an observation, ``A''`` times the squared slope of ``y`` in ``T``."""
        variance = self.family.variance(self.natural_param)
        observation = self.family.observation
        slope = observation(torch.ones_like(variance)) - observation(torch.zeros_like(variance))
        return slope.square() * variance

    def entropy(self) -> Tensor:
        """The entropy of an observation, in the batch shape."""
        return self.family.entropy(self.natural_param)

    def __repr__(self) -> str:
        """The class with its arguments; tensors of many elements are shown as their shape."""
        arguments = {name: getattr(self.family, name) for name in self._family_parameters}
        if type(self) is ExponentialFamilyDistribution:
            arguments["family"] = self.family
        arguments["natural_param"] = self.natural_param
        described = ", ".join(f"{name}: {_describe(value)}" for name, value in arguments.items())
        return f"{type(self).__name__}({described})"

    def _checked(self, value: Tensor) -> Tensor:
        if isinstance(value, Tensor) and not value.is_floating_point():
            value = value.to(self.natural_param.dtype)
        if self._validate_args:
            self._validate_sample(value)
        return value

    def _validate_sample(self, value: Tensor) -> None:
        try:
            super()._validate_sample(value)
        except ValueError as error:
            if not isinstance(value, Tensor) or not _broadcastable(value.shape, self.batch_shape):
                raise
            raise ValueError(self._outside_support(value)) from error

    def _outside_support(self, value: Tensor) -> str:
        outside = (~self.support.check(value)).broadcast_to(
            torch.broadcast_shapes(value.shape, self.batch_shape)
        )
        index = tuple(outside.nonzero()[0].tolist())
        return (
            f"value must be within the support of {self!r}, but {int(outside.sum())} of its "
            f"{outside.numel()} elements are not: the first is "
            f"{value.broadcast_to(outside.shape)[index].item()} at {index}"
        )

    def _parameter(self, name: str) -> Tensor:
        value = getattr(self.family, name)
        if not isinstance(value, Tensor):
            value = self.natural_param.new_full((), value)
        return value.to(self.natural_param).expand(self.batch_shape)

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        values = values.to(self.natural_param).view((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values

    def _draw_options(self, sample_shape: Shape) -> dict[str, Any]:
        return {
            "size": self._extended_shape(sample_shape),
            "dtype": self.natural_param.dtype,
            "device": self.natural_param.device,
        }


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
    support = constraints.dependent_property(_family_support, is_discrete=False, event_dim=0)
    has_rsample = True
    _family_parameters = ("scale",)

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
    support = constraints.dependent_property(_family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True

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
    support = constraints.dependent_property(_family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True

    def __init__(self, natural_param: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(families.Ising(), natural_param, validate_args)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of an observation of at most ``value``."""
        return _two_point_cdf(self._checked(value), -1, torch.sigmoid(-2 * self.natural_param))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values -1 and 1, of shape ``(2,) + batch_shape``, or with ones if not expanded."""
        return self._enumerated(torch.tensor([-1, 1]), expand)


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
    support = constraints.dependent_property(_family_support, is_discrete=False, event_dim=0)
    has_rsample = True

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
    support = constraints.dependent_property(_family_support, is_discrete=True, event_dim=0)

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
    support = constraints.dependent_property(_family_support, is_discrete=True, event_dim=0)
    has_enumerate_support = True
    _family_parameters = ("total_count",)

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


_DISTRIBUTIONS: dict[type[Family], type[ExponentialFamilyDistribution]] = {
    families.Gaussian: Gaussian,
    families.Bernoulli: Bernoulli,
    families.Ising: Ising,
    families.ContinuousBernoulli: ContinuousBernoulli,
    families.Poisson: Poisson,
    families.Binomial: Binomial,
}


def distribution(
    family: Family, natural_param: Tensor | float, validate_args: bool | None = None
) -> ExponentialFamilyDistribution:
    """The Pyro distribution of a family, by natural parameter.

    For a family of the package it is the class of the same name, and for any other family an
    :class:`ExponentialFamilyDistribution`.

    Args:
        family: the exponential family.
        natural_param: the natural parameter, a number or a tensor of any shape. Its shape is the
            batch shape unless a parameter of the family is a larger tensor.
        validate_args: whether to check the parameter and the observations; by default the setting
            of :func:`pyro.enable_validation`.

    Raises:
        ValueError: if the class of the distribution raises it.

    Example:
        >>> import torch
        >>> from pyro_expfam import distributions, families
        >>> distributions.distribution(families.Gaussian(scale=2.0), torch.zeros(500, 50))
        Gaussian(scale: 2.0, natural_param: torch.Size([500, 50]))
    """
    named = _DISTRIBUTIONS.get(type(family), ExponentialFamilyDistribution)
    # Not the constructor of the class, since it would build and check the family once more.
    law = named.__new__(named)
    ExponentialFamilyDistribution.__init__(law, family, natural_param, validate_args)
    return law


@register_kl(ExponentialFamilyDistribution, ExponentialFamilyDistribution)
def _kl_same_family(p: ExponentialFamilyDistribution, q: ExponentialFamilyDistribution) -> Tensor:
    if p.family != q.family:
        raise NotImplementedError(
            f"the divergence needs one family, got {p.family!r} and {q.family!r}"
        )
    return p.family.kl_divergence(p.natural_param, q.natural_param)


@register_kl(Gaussian, Gaussian)
def _kl_gaussian(p: Gaussian, q: Gaussian) -> Tensor:
    """Source: Kullback (1959), chapter 9, for one dimension."""
    ratio = p.scale / q.scale
    difference = ratio * p.natural_param - q.natural_param
    return (ratio.square() + difference.square() - 1) / 2 - ratio.log()


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


def _two_point_cdf(value: Tensor, low: int, probability_of_low: Tensor) -> Tensor:
    return torch.where(value < low, 0.0, torch.where(value < 1, probability_of_low, 1.0))


def _broadcastable(shape: torch.Size, other: torch.Size) -> bool:
    try:
        torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return False
    return True


def _describe(value: object) -> object:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.shape
    return value
