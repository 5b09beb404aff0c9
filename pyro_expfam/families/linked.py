"""Families under a link other than their own."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import InitVar, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.derivatives import derivatives
from pyro_expfam.families.inversion import invert_monotone
from pyro_expfam.families.link_checks import check_image, has_bounded_information, has_convex_loss
from pyro_expfam.links import Link, NaturalParameter


@dataclass(frozen=True, eq=False, repr=False)
class Linked(Family):
    r"""A family whose own linear predictor is a function :math:`R(\eta)` of another one.

    For a canonical family the own linear predictor is the natural parameter, and the loss is
    :math:`A(R(\eta)) - T(y) R(\eta)`. Its derivatives follow by the chain rule. A link, such as
    :class:`~pyro_expfam.links.Probit`, says what ``R`` is: the mean of an observation is
    ``link.mean(eta)``.

    ``families.Bernoulli(link=links.Probit())`` makes this class. Call it directly for a family of
    your own, which need not take a ``link``.

    Where the loss is convex in :math:`\eta` for all observations, :meth:`information` is the second
    derivative of the loss. Where it is not, it is the Fisher information
    :math:`R'^2 E[\ell'']`, and a row may have several stationary points. Whether the loss is convex
    is decided at 241 linear predictors between -30 and 30, for the smallest and the largest
    observations. ``self_concordance`` is known for few pairs of a family and a link, and None for
    the others.

    Source: section 2 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*, for
    ``R``; McCullagh and Nelder (1989), section 2.5, for both kinds of information.

    Args:
        base: the family, whose loss must be affine in a monotone statistic of ``y``.
        link: the link.

    Raises:
        TypeError: ``base`` is not a family or has a link already, or ``link`` is not a link.
        ValueError: the loss of ``base`` is not convex, ``base`` has several linear predictors per
            column, the link is constant or does not act elementwise, or the family does not have a
            mean or a natural parameter of the link.

    Example:
        >>> import torch
        >>> from pyro_expfam import families, links
        >>> family = families.Bernoulli(link=links.Probit())
        >>> family
        Bernoulli(link=Probit())
        >>> family.expected_y(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1587, 0.5000, 0.8413])
        >>> family.is_convex, families.Gaussian(1.0, link=links.Log()).is_convex
        (True, False)
    """

    base: Family
    link: Link

    def __post_init__(self) -> None:
        if not isinstance(self.base, Family) or isinstance(self.base, Linked):
            raise TypeError(f"base must be a family without a link, got {self.base!r}")
        if self.base.predictors_per_column > 1:
            raise ValueError(
                f"base must have one linear predictor per column, got {self.base}, whose levels "
                "take the softmax alone"
            )
        if not self.base.is_convex:
            raise ValueError(f"base must have a convex loss without the link, got {self.base}")
        if not isinstance(self.link, Link):
            raise TypeError(
                f"link must be a link such as pyro_expfam.links.Probit(), got {self.link!r}: wrap "
                "a function of the linear predictor as pyro_expfam.links.Mean or NaturalParameter"
            )
        key = _key(self.base, self.link)
        facts = _FACTS.get(key)
        if facts is None:
            facts = self._facts()
        if key is not None:
            _FACTS[key] = facts
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    def _facts(self) -> dict[str, Any]:
        """What the family is like at a grid of linear predictors; raises what check_image does."""
        extremes = [self._with_base(base) for base in _extremes(self.base)]
        for family in extremes:
            check_image(family)
        is_own = self.link == self.base.own_link
        convex = all(has_convex_loss(family) for family in extremes)
        known = (
            self.base.self_concordance if is_own else self.base.self_concordance_under(self.link)
        )
        return {
            "is_convex": convex,
            "self_concordance": known if convex else None,
            "bounded_variance": all(
                has_bounded_information(family._with_fact("is_convex", convex))
                for family in extremes
            ),
            "weak_loading_scale": (self.base if is_own else self.link).weak_loading_scale,
            "weak_intercept_scale": (self.base if is_own else self.link).weak_intercept_scale,
        }

    def _with_base(self, base: Family) -> Self:
        return self._with_fact("base", base)

    def _with_fact(self, name: str, value: object) -> Self:
        other = copy(self)
        object.__setattr__(other, name, value)
        return other

    def _identity(self) -> tuple[tuple[str, object], ...]:
        return (("base", self.base), ("link", self.link))

    def __repr__(self) -> str:
        base = repr(self.base)
        if not isinstance(self.base, Linkable) or not base.endswith(")"):
            return f"Linked({base}, {self.link!r})"
        separator = "" if base.endswith("(") or base.endswith("()") else ", "
        return f"{base[:-1]}{separator}link={self.link!r})"

    @property
    def kind(self) -> str:
        """The name of the kind without the link, and the name of the link."""
        link = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self.link).__name__).lower()
        return f"{self.base.kind}_{link}"

    @property
    def support(self) -> constraints.Constraint:
        """The observations of the family without the link."""
        return self.base.support

    @property
    def placeholder(self) -> float | Tensor:
        """The possible observation of the family without the link."""
        return self.base.placeholder

    @property
    def predictor_domain(self) -> constraints.Constraint:
        """The linear predictors at which the link has a mean."""
        return self.link.domain

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the family without the link."""
        return self.base.parameters

    def with_parameters(self, parameters: dict[str, Tensor]) -> Self:
        """The same law with other tensors as parameters."""
        return self._with_base(self.base.with_parameters(parameters)) if parameters else self

    @property
    def is_smooth(self) -> bool:
        """Whether the link is smooth."""
        return self.link.is_smooth

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters of the family without the link."""
        return self.base.parameter_names

    def replaced(self, parameters: dict[str, Tensor]) -> Family:
        """The same law under the same link with other values of some parameters."""
        return self._with_base(self.base.replaced(parameters))

    def to_learn(self, num_features: int) -> dict[str, Tensor]:
        """Starting values of the parameters to be learnt, as without the link."""
        return self.base.to_learn(num_features)

    def constraint_of(self, name: str) -> constraints.Constraint:
        """The set of values of a parameter, as without the link."""
        return self.base.constraint_of(name)

    def parameter_start(self, name: str) -> float:
        """Where training of a parameter begins, as without the link."""
        return self.base.parameter_start(name)

    def is_in_units(self, name: str) -> bool:
        """Whether the values of a parameter depend on units, as without the link."""
        return self.base.is_in_units(name)

    def check_known(self) -> None:
        """Raises a ValueError if a parameter is still to be learnt."""
        self.base.check_known()

    def own_predictor(self, eta: Tensor) -> Tensor:
        r"""The linear predictor :math:`R(\eta)` of the family without the link."""
        if isinstance(self.link, NaturalParameter):
            return self.link.function(eta)
        return self.base.under_link(self.link, eta)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of ``y``, minus infinity where the link has no mean."""
        value = self.base.log_prob(y, self.own_predictor(eta))
        return value if self._is_everywhere else torch.where(self._inside(eta), value, -torch.inf)

    def log_base_measure(self, y: Tensor) -> Tensor:
        return self.base.log_base_measure(y)

    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        return self.base.sample(self.own_predictor(eta), sample_shape)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """The deviance from the best mean of all, even where the link does not reach it."""
        return self.base.deviance(y, self.own_predictor(eta))

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        return self.base.saturated_log_prob(y)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        return self.base.convex_conjugate(mean)

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        return self.base.bregman_divergence(y, mean)

    def expected_y(self, eta: Tensor) -> Tensor:
        return self.base.expected_y(self.own_predictor(eta))

    def variance_of_y(self, eta: Tensor) -> Tensor:
        return self.base.variance_of_y(self.own_predictor(eta))

    def entropy(self, eta: Tensor) -> Tensor:
        return self.base.entropy(self.own_predictor(eta))

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        return self.base.kl_divergence(self.own_predictor(eta), self.own_predictor(other))

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of an observation.

        It is found by bisection where the link has no closed form.
        """
        try:
            return self.link.predictor(self.base.mean_for_link(y))
        except NotImplementedError:
            return invert_monotone(self.own_predictor, self.base.predictor(y), self.link.domain)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log density up to terms free of ``eta``, infinite where there is no mean."""
        value = self.base.loss(self.own_predictor(eta), y)
        return value if self._is_everywhere else torch.where(self._inside(eta), value, torch.inf)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        own, slope = derivatives(self.own_predictor, eta, 1)
        return slope * self.base.score(own, y)

    def loss_score_information(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, slope, curvature = derivatives(self.own_predictor, eta, 2)
        loss, score, information = self.base.loss_score_information(own, y)
        if not self._is_everywhere:
            loss = torch.where(self._inside(eta), loss, torch.inf)
        if self.is_convex:
            total = (slope * (slope * information) - curvature * score).clamp(min=0)
        else:
            total = self._expected(own, slope) + torch.zeros_like(y)
        return loss, slope * score, total

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        own, slope, curvature = derivatives(self.own_predictor, eta, 2)
        # One by one: what shares computations may lose digits where a mean is close to its edge.
        score, information = self.base.score(own, y), self.base.curvature(own, y)
        # A large slope meets a small information: their product first, so that none overflows.
        return slope * score, slope * (slope * information) - curvature * score

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of a convex loss, otherwise the Fisher information."""
        if self.is_convex:
            return self.curvature(eta, y).clamp(min=0)  # what rounding leaves
        own, slope = derivatives(self.own_predictor, eta, 1)
        # In the shape of y and eta, as where the loss is convex.
        return self._expected(own, slope) + torch.zeros_like(y)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        return self.score_and_curvature(eta, y)[1]

    def curvature_size(self, eta: Tensor, y: Tensor) -> Tensor:
        """The size of the terms of :meth:`curvature`, in which its rounding is measured."""
        own, slope, curvature = derivatives(self.own_predictor, eta, 2)
        information = self.base.information(own, y)
        return (slope * (slope * information)).abs() + (curvature * self.base.score(own, y)).abs()

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        own, slope, curvature, third = derivatives(self.own_predictor, eta, 3)
        return (
            slope * (slope * (slope * self.base.third_derivative(own, y)))
            + 3 * curvature * (slope * self.base.information(own, y))
            - third * self.base.score(own, y)
        )

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        own, slope, curvature, third, fourth = derivatives(self.own_predictor, eta, 4)
        information = self.base.information(own, y)
        of_slope = slope * (slope * self.base.third_derivative(own, y))
        return (
            slope * (slope * (slope * (slope * self.base.fourth_derivative(own, y))))
            + 6 * curvature * of_slope
            + 4 * third * (slope * information)
            + 3 * curvature * (curvature * information)
            - fourth * self.base.score(own, y)
        )

    def _expected(self, own: Tensor, slope: Tensor) -> Tensor:
        return slope * (slope * self.base.information(own, self.base.expected_y(own)))

    @property
    def _is_everywhere(self) -> bool:
        return self.link.domain is constraints.real

    def _inside(self, eta: Tensor) -> Tensor:
        return self.link.domain.check(eta)


_Key = tuple[Any, ...]
_FACTS: dict[_Key | None, dict[str, Any]] = {}
"""What families under a link are like, so that each is looked at once."""


def _key(base: Family, link: Link) -> _Key | None:
    """Everything that a family under a link depends on, or None if some of it may change."""
    values = (*vars(base).values(), *vars(link).values())
    if not all(isinstance(value, int | float | str | None) for value in values):
        # Tensors change in place, and functions with what they refer to.
        return None
    return type(base), *vars(base).items(), type(link), *vars(link).items()


def _extremes(base: Family) -> list[Family]:
    """A family with each of its tensors at its smallest and at its largest entry."""
    known = base.with_parameters(base.to_learn(1))
    tensors = {name: value.detach() for name, value in known.parameters.items()}
    if not tensors:
        return [known]
    return [
        known.with_parameters({name: pick(value) for name, value in tensors.items()})
        for pick in (torch.amin, torch.amax)
    ]


@dataclass(frozen=True, eq=False, repr=False)
class Linkable(Family):
    """A family that takes a ``link``.

    With a link other than its own, the result is a :class:`Linked` family.

    Args:
        link: a link of :mod:`pyro_expfam.links`, or None for the own link of the family.
    """

    link: InitVar[Link | None] = field(default=None, kw_only=True)

    def __new__(cls, *args: Any, link: Link | None = None, **kwargs: Any) -> Any:
        """The family itself, or the family under a link."""
        if link is None:
            return super().__new__(cls)
        base = cls(*args, **kwargs)
        # Python initialises an instance of the class once more, which does no harm.
        return base if link == base.own_link else Linked(base, link)
