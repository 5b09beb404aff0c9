"""The Bose-Einstein families of counts in bunches."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.deviance import EDGE
from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.lattice import Lattice
from pyro_expfam.families.linked import Linked
from pyro_expfam.families.polylogarithm import polylogarithm
from pyro_expfam.families.positive import positive
from pyro_expfam.links import Link, NaturalParameter
from pyro_expfam.links.logistic import softplus

MOST = 1 << 17
"""Observations of more than so many spacings are refused: their base measure takes minutes."""

_LARGE = 1e250
"""Masses are scaled down where they grow beyond this number."""


def minus_softplus_of_minus(eta: Tensor) -> Tensor:
    r"""The negative numbers :math:`-\log(1 + e^{-\eta})`."""
    return -softplus(-eta)


@dataclass(frozen=True, eq=False)
class BoseEinsteinLaw(ExponentialFamily):
    r"""Sums of bunches, by their natural parameter, which is negative.

    .. math:: A(r) = c \, \mathrm{Li}_{j + 1}(e^{\beta r}), \quad c = \beta^{-(j + 1)}, \quad r < 0.

    It is the law of :math:`\beta \sum_k k N_k` with independent Poisson counts :math:`N_k` of rate
    :math:`c \, e^{\beta k r} k^{-(j + 1)}`. A block takes
    :class:`~pyro_expfam.families.BoseEinstein`, whose linear predictor is any number.

    Source: appendix A.4 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*

    Args:
        order: the order ``j``, a whole number from 0 on.
        spacing: the distance :math:`\beta` of neighbouring observations, a positive number.
    """

    order: int = 0
    spacing: float = 1.0

    natural_domain = constraints.less_than(0.0)
    bounded_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        order = self.order
        if isinstance(order, bool) or not isinstance(order, numbers.Integral):
            raise TypeError(f"order is {order!r}, but should be a whole number")
        if order < 0:
            raise ValueError(f"order is {order}, but should be at least 0")
        spacing = positive("spacing", self.spacing)
        if isinstance(spacing, Tensor):
            raise TypeError(f"spacing must be one number, got {spacing}")
        object.__setattr__(self, "order", int(order))
        object.__setattr__(self, "spacing", spacing)

    @property
    def support(self) -> constraints.Constraint:
        """The multiples of the spacing from 0 on."""
        if self.spacing == 1:
            return constraints.nonnegative_integer
        return Lattice(self.spacing, 0.0, low=0.0)

    @property
    def placeholder(self) -> float:
        """One spacing."""
        return self.spacing

    @property
    def predictor_domain(self) -> constraints.Constraint:
        """The negative numbers."""
        return self.natural_domain

    def log_partition(self, eta: Tensor) -> Tensor:
        """The log-partition, a polylogarithm."""
        return self._cumulant(eta, 0)

    def mean(self, eta: Tensor) -> Tensor:
        """The mean."""
        return self._cumulant(eta, 1)

    def variance(self, eta: Tensor) -> Tensor:
        """The variance."""
        return self._cumulant(eta, 2)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant."""
        return self._cumulant(eta, 3)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant."""
        return self._cumulant(eta, 4)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate of the log-partition, infinite below 0.

        From order 2 on there is a largest mean, :math:`c \beta \, \zeta(j)`. Beyond it the supremum
        is the one at the natural parameter 0.
        """
        end = self.natural_param(mean).clamp(-EDGE, -torch.finfo(mean.dtype).tiny)
        return torch.where(mean < 0, torch.inf, mean * end - self.log_partition(end))

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log base measure.

        The mass :math:`a_m` at ``m`` spacings follows from :math:`a_0 = 1` and
        :math:`m a_m = c \sum_{k = 1}^m k^{-j} a_{m - k}`.

        Raises:
            ValueError: an observation is more than 131,072 spacings.
        """
        value: Tensor = _LogBaseMeasure.apply(y.detach(), self.order, self.spacing)
        return value

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``.

        Bunches are drawn at the rates of order 0, which are the largest, with sizes from the
        logarithmic law by Kemp's method. A bunch of size ``k`` is kept with probability
        ``k ** -order``.

        Source: Kemp (1981), *Efficient generation of logarithmically distributed pseudo-random
        variables*.
        """
        natural = (self.spacing * eta.double()).expand((*sample_shape, *eta.shape))
        log_rest = torch.log(-torch.expm1(natural)).reshape(-1)
        number = torch.poisson(-self._factor * log_rest)
        owner = torch.repeat_interleave(torch.arange(len(number), device=eta.device), number.long())
        first, second, third = torch.rand(
            3, len(owner), dtype=torch.float64, device=eta.device
        ).unbind(0)
        odds = torch.log(-torch.expm1(log_rest[owner] * (1 - first)))
        size = 1 + (torch.log1p(-second) / odds).floor()
        kept = torch.where(third < size ** -float(self.order), size, 0.0)
        total = torch.zeros_like(number).index_add_(0, owner, kept)
        return (self.spacing * total).reshape(natural.shape).to(eta.dtype)

    def self_concordance_under(self, link: Link) -> float | None:
        """1 for the geometric law by its log mean."""
        is_geometric = self.order == 0 and self.spacing == 1
        return 1.0 if is_geometric and link == _BELOW_ZERO else None

    @property
    def _factor(self) -> float:
        return self.spacing ** -(self.order + 1)

    def _cumulant(self, eta: Tensor, number: int) -> Tensor:
        scale = self._factor * self.spacing**number
        return scale * polylogarithm(self.order + 1 - number, self.spacing * eta)


_BELOW_ZERO = NaturalParameter(minus_softplus_of_minus)


class BoseEinstein(Linked):
    r"""Counts that come in bunches, by a function of their natural parameter.

    .. math:: A(r) = c \, \mathrm{Li}_{j + 1}(e^{\beta r}), \quad c = \beta^{-(j + 1)}, \quad
              r = -\log(1 + e^{-\eta}) < 0.

    It is the law of :math:`\beta \sum_k k N_k` with independent Poisson counts :math:`N_k` of rate
    :math:`c \, e^{\beta k r} k^{-(j + 1)}`: bunches of ``k`` are the rarer, the higher the order.
    Observations are the multiples 0, :math:`\beta`, :math:`2 \beta`, ... of the spacing. The mean
    is :math:`c \beta \, \mathrm{Li}_j(e^{\beta r})` and the variance
    :math:`c \beta^2 \, \mathrm{Li}_{j - 1}(e^{\beta r})`. Order 0 with the spacing 1 is the
    :class:`~pyro_expfam.families.Geometric` family.

    From order 1 on, the loss is not convex in the linear predictor. Steps use the Fisher
    information, and a row may have several stationary points. From order 2 on, the mean is at most
    :math:`c \beta \, \zeta(j)`, however large the linear predictor.

    Source: appendix A.4 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*

    Args:
        order: the order ``j``, a whole number from 0 on.
        spacing: the distance :math:`\beta` of neighbouring observations, a positive number.
        link: another function onto the negative numbers, a
            :class:`~pyro_expfam.links.NaturalParameter`.

    Raises:
        TypeError: ``order`` is not a whole number, or ``spacing`` is not a number.
        ValueError: ``order`` is negative, ``spacing`` is not positive and finite, or the link
            leaves the negative numbers.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import BoseEinstein
        >>> family = BoseEinstein(order=1)
        >>> eta = torch.tensor([0.0, 2.0])
        >>> family.expected_y(eta), family.variance_of_y(eta)
        (tensor([0.6931, 2.1269]), tensor([1.0000, 7.3891]))
    """

    base: BoseEinsteinLaw

    def __init__(self, order: int = 0, spacing: float = 1.0, link: Link | None = None) -> None:
        law = BoseEinsteinLaw(order, spacing)
        if link is not None:
            super().__init__(law, link)
            return
        # Known, so that nothing is looked at on a grid. At the mean m and the variance v of y = 0,
        # with s = sigmoid(eta), the second derivative has the sign of (1 - s) v - s m. At order 0
        # this is the sign of b (1 - s) / s - 1 + s ** b for the spacing b, which falls to 0 as s
        # goes to 1. From order 1 on, m stays positive or grows there while (1 - s) v does not.
        known = {
            "base": law,
            "link": _BELOW_ZERO,
            "is_convex": law.order == 0,
            "self_concordance": law.self_concordance_under(_BELOW_ZERO),
            "bounded_variance": True,
            "weak_loading_scale": _BELOW_ZERO.weak_loading_scale,
            "weak_intercept_scale": _BELOW_ZERO.weak_intercept_scale,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        link = "" if self.link == _BELOW_ZERO else f", link={self.link!r}"
        return f"BoseEinstein(order={self.order}, spacing={self.spacing:g}{link})"

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """The deviance of an observation, by differences of linear predictors.

        As a function of natural parameters the loss has a singularity at 0, close to large ones.
        """
        return Family.deviance(self, y, eta)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy has no closed form."""
        return Family.entropy(self, eta)

    @property
    def order(self) -> int:
        """The order."""
        return self.base.order

    @property
    def spacing(self) -> float:
        """The distance of neighbouring observations."""
        return self.base.spacing


class _LogBaseMeasure(Function):
    """The log base measure of observations, which may be mapped over."""

    @staticmethod
    def forward(y: Tensor, order: int, spacing: float) -> Tensor:
        place = (y.double() / spacing).round().nan_to_num().clamp(min=0)
        most = int(place.max()) if place.numel() else 0
        if most > MOST:
            raise ValueError(
                f"y must be at most {MOST} times the spacing, {spacing:g}, got {most * spacing:g}"
            )
        masses = _log_masses(order, spacing, 1 << most.bit_length())
        return torch.from_numpy(masses).to(y)[place.long()]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept, since observations on a lattice have no derivative."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, y: Tensor, order: int, spacing: float
    ) -> tuple[Tensor, int | None]:
        return _LogBaseMeasure.apply(y, order, spacing), in_dims[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        return None, None, None


@lru_cache(maxsize=16)
def _log_masses(order: int, spacing: float, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The log base measure at 0, ..., ``count - 1`` spacings, by the recursion of its masses."""
    factor = spacing ** -(order + 1)
    steps = factor * np.arange(1, count, dtype=np.float64) ** -order
    masses, logs, log_scale = np.zeros(count), np.zeros(count), 0.0
    masses[0] = 1.0
    for m in range(1, count):
        masses[m] = steps[:m] @ masses[m - 1 :: -1] / m
        if masses[m] > _LARGE:
            masses[: m + 1] /= _LARGE
            log_scale += math.log(_LARGE)
        logs[m] = math.log(masses[m]) + log_scale
    return logs
