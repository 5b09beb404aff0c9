"""What a family under a link is like, found on a grid of linear predictors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.elementwise import check_elementwise
from pyro_expfam.links import Identity, NaturalParameter

if TYPE_CHECKING:
    from pyro_expfam.families.linked import Linked

_HUGE = 1e8
"""An observation in place of one without a bound."""

_ROUNDING = 1e-9
"""What a derivative may be off, relative to its terms."""

_MUCH = 1e4
"""An information above this number, for observations of size 1, is taken to have no bound."""


def check_image(family: Linked) -> None:
    """Raises an error unless every linear predictor of the grid has a mean in the family.

    Raises:
        TypeError: the function of the link does not return a tensor of the dtype of its argument.
        ValueError: it does not act elementwise, is constant, or leaves the means of the family.
    """
    eta, link = _grid(family), family.link
    function = link.function if isinstance(link, NaturalParameter) else link.mean
    check_elementwise(f"the function of link {link}", function, eta)
    with torch.no_grad():
        value = function(eta)
        if bool((value == value[0]).all()):
            raise ValueError(
                f"link must depend on the linear predictor, got {link}, whose value is "
                f"{float(value[0]):g} everywhere"
            )
        own = family.own_predictor(eta)
    fits = own.isfinite() & family.base.predictor_domain.check(own)
    if bool(fits.all()):
        return
    outside = eta[~fits]
    nearest = outside[outside.abs().argmin()]
    if isinstance(family.link, NaturalParameter):
        wanted = f"natural parameters of {family.base}, which are {family.base.predictor_domain}"
        name, value = "natural parameter", own[eta == nearest]
    else:
        wanted = f"means of {family.base}"
        name, value = "mean", family.link.mean(nearest)
    raise ValueError(
        f"link must have {wanted}, at every linear predictor, got {family.link}, whose {name} is "
        f"{float(value):g} at linear predictor {float(nearest):g}{_advice(family)}"
    )


def has_convex_loss(family: Linked) -> bool:
    """Whether the loss is convex for the smallest and for the largest observation.

    The loss is affine in a monotone statistic of the observation, so that it is convex for all
    observations then. Scores are looked at beside second derivatives, since a loss may have kinks.
    """
    eta = _grid(family)
    with torch.no_grad():
        for y in _extreme_observations(family, _HUGE):
            score, second = family.score(eta, y), family.curvature(eta, y)
            if not bool((score.isfinite() & second.isfinite()).all()):
                return False
            if bool((score.diff() > _ROUNDING * score.abs().amax()).any()):
                return False
            if bool((second < -_ROUNDING * family.curvature_size(eta, y)).any()):
                return False
    return True


def has_bounded_information(family: Linked) -> bool:
    """Whether the information of an observation of size 1 is bounded over the linear predictors."""
    eta = _grid(family)
    with torch.no_grad():
        return all(
            bool((family.information(eta, y) < _MUCH).all())
            for y in _extreme_observations(family, 1.0)
        )


def _grid(family: Linked) -> Tensor:
    """Linear predictors from -30 to 30, or from 1e-4 to 1e4 if they must be positive."""
    eta = torch.linspace(-30, 30, 241, dtype=torch.float64)
    if family.predictor_domain is constraints.positive:
        return torch.exp(eta * 0.3)
    return eta


def _extreme_observations(family: Linked, most: float) -> list[Tensor]:
    support = family.support
    if support is constraints.boolean:
        ends = (0.0, 1.0)
    else:
        low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
        ends = (-most if low is None else low, most if high is None else high)
    return [torch.as_tensor(end, dtype=torch.float64) for end in ends]


def _advice(family: Linked) -> str:
    """Links that fit, with punctuation, or nothing."""
    if isinstance(family.link, NaturalParameter):
        return ""
    means = torch.tensor([0.25, 2.0, -1.0], dtype=torch.float64)
    own = family.base.under_link(Identity(), means)
    takes_share, takes_large, takes_negative = own.isfinite().tolist()
    if takes_large and not takes_negative:
        return (
            ": use Log() or Softplus(), or in a distribution Power(1), the identity of positive "
            "predictors"
        )
    if takes_share and not takes_large:
        return ": use Logit(), Probit() or ComplementaryLogLog()"
    return ""
