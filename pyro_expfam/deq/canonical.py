"""The requirements of the layer on a canonical family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families import ExponentialFamily, Family
from pyro_expfam.families.elementwise import check_elementwise

FOLLOW = (
    "loss",
    "score",
    "curvature",
    "information",
    "score_and_curvature",
    "third_derivative",
    "fourth_derivative",
    "entries",
)
"""Functions that follow from the cumulants, and that a subclass must not override."""

CUMULANTS = ("log_partition", "mean", "variance", "third_cumulant", "fourth_cumulant")
"""The log-partition and its derivatives, each the derivative of the one before."""

DISTANCE = 2e-3
"""The distance between the points of a finite difference."""

RELATIVE, ABSOLUTE = 1e-4, 1e-9
"""Tolerances of a function: relative to its value, and to the terms of a finite difference."""

OF_AUTOGRAD = 1e-11
"""The tolerance of a function that autograd computes, relative to the log-partition: far out, the
terms of a small cumulant cancel."""


def check_canonical(family: ExponentialFamily) -> None:
    r"""Raises an error unless the functions of a canonical family fit together.

    The natural parameter may be any real number, ``mean`` is the derivative of ``log_partition``,
    ``variance`` is the derivative of ``mean`` and so on, the log-partition is convex, and
    ``self_concordance`` is a bound. All of this is checked at 73 natural parameters between -20
    and 20, in float64.

    Raises:
        ValueError: if one of its functions does not fit; the message names it.
    """
    _check_functions(family.rows(slice(0, 1)) if family.differs_by_row else family)


@lru_cache(maxsize=256)
def refuse_overrides(kind: type[Family]) -> None:
    """Raises an error if a class of canonical families overrides a function of :data:`FOLLOW`."""
    if not issubclass(kind, ExponentialFamily):
        return
    for name in FOLLOW:
        if getattr(kind, name) is not getattr(ExponentialFamily, name):
            raise ValueError(
                f"family must not override {name}, got {kind.__name__}, which does: solvers take "
                "the loss of an ExponentialFamily from its log_partition and its cumulants. For "
                "another canonical family override log_partition, mean, variance, third_cumulant "
                "and fourth_cumulant, each the derivative of the one before. For another law of "
                "the observations subclass pyro_expfam.families.Family"
            )


def check_domain(family: ExponentialFamily) -> None:
    """Raises an error unless natural parameters may be any real number."""
    domain = family.natural_domain
    if type(domain) is not type(constraints.real):
        raise ValueError(
            "family must have natural parameters on the whole real line, because the linear "
            f"predictor W z + b takes any value; got {family}, whose natural_domain is {domain}: "
            "give it a link onto that domain"
        )


def _check_functions(family: ExponentialFamily) -> None:
    points = _points(family)
    for name in CUMULANTS[:3]:
        check_elementwise(f"{name} of {family}", getattr(family, name), points)
    eta = points.expand(family.mean(points).shape).clone(memory_format=torch.contiguous_format)
    values = dict(_known_cumulants(family, eta))
    for name, value in values.items():
        _check_finite(family, name, value, eta)
    for lower, upper in pairwise(CUMULANTS):
        if lower in values and upper in values:
            lost = _lost_by_autograd(family, upper, values["log_partition"])
            _check_derivative(family, lower, upper, values[upper], eta, lost)
    _check_shared(family, values, eta)
    _check_convexity(family, values["variance"], eta)
    _check_self_concordance(family, values, eta)
    _check_draws(family)


def _check_finite(family: ExponentialFamily, name: str, value: Tensor, eta: Tensor) -> None:
    refuse_unless(
        value.isfinite(),
        eta,
        lambda at, x: (
            f"family must have natural parameters on the whole real line; got {family}, whose "
            f"{name} is {float(value[at]):g} at natural parameter {x:g}"
        ),
    )


def _points(family: ExponentialFamily) -> Tensor:
    """Natural parameters on the family's device, ``(73, 1)``."""
    near = torch.linspace(-8, 8, 65, dtype=torch.float64)
    far = torch.tensor([-20.0, -15.0, -12.0, -10.0, 10.0, 12.0, 15.0, 20.0], dtype=torch.float64)
    return torch.cat([near, far]).unsqueeze(-1).to(device_of(family))


def device_of(family: Family) -> torch.device:
    """The device of the tensors of a family."""
    tensors = (value for value in vars(family).values() if isinstance(value, Tensor))
    return next((value.device for value in tensors), torch.device("cpu"))


def _known_cumulants(family: ExponentialFamily, eta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The cumulants that a family implements; orders above the variance are optional."""
    for name in CUMULANTS:
        try:
            value = getattr(family, name)(eta)
        except NotImplementedError:
            if name in CUMULANTS[:3]:
                raise
            continue
        yield name, value.expand(eta.shape)


def _lost_by_autograd(
    family: ExponentialFamily, name: str, log_partition: Tensor
) -> Tensor | float:
    """What a cumulant may lose to cancellation where autograd computes it."""
    if getattr(type(family), name) is not getattr(ExponentialFamily, name):
        return 0.0
    return OF_AUTOGRAD * (1 + log_partition.abs())


def _check_derivative(
    family: ExponentialFamily,
    lower: str,
    upper: str,
    claimed: Tensor,
    eta: Tensor,
    lost: Tensor | float,
) -> None:
    slope, of_differences = slope_of(getattr(family, lower), eta)
    near = (claimed - slope).abs() <= RELATIVE * slope.abs() + of_differences + lost
    refuse_unless(
        near,
        eta,
        lambda at, x: (
            f"family must have a {upper} that is the derivative of its {lower}; got {family}, "
            f"whose {upper} is {float(claimed[at]):.6g} at natural parameter {x:g}, where "
            f"{lower} has the slope {float(slope[at]):.6g}. Override both"
        ),
    )


def slope_of(function: Callable[[Tensor], Tensor], eta: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of a function by differences of fourth order, and its rounding error."""
    low, lower, upper, high = (function(eta + k * DISTANCE) for k in (-2, -1, 1, 2))
    slope = (low - 8 * lower + 8 * upper - high) / (12 * DISTANCE)
    return slope, ABSOLUTE * torch.maximum(low.abs(), high.abs())


def _check_shared(family: ExponentialFamily, values: dict[str, Tensor], eta: Tensor) -> None:
    """Checks functions that return several cumulants against the functions for each cumulant."""
    both = ("mean", "variance")
    for method, names, given in (
        ("mean_and_variance", both, family.mean_and_variance(eta.clone())),
        (
            "mean_and_variance_in_place",
            both,
            family.mean_and_variance_in_place(eta.clone(), torch.empty_like(eta)),
        ),
        (
            "first_cumulants_in_place",
            CUMULANTS[:3],
            family.first_cumulants_in_place(eta.clone(), torch.empty_like(eta)),
        ),
    ):
        # A variance may be exact only to the rounding of the mean.
        lost = ABSOLUTE * values["mean"].abs()
        for name, value in zip(names, given, strict=True):
            _check_same(family, (method, value), (name, values[name]), lost, eta)


def _check_same(
    family: ExponentialFamily,
    shared: tuple[str, Tensor],
    alone: tuple[str, Tensor],
    lost: Tensor,
    eta: Tensor,
) -> None:
    (method, value), (name, right) = shared, alone
    refuse_unless(
        (value - right).abs() <= RELATIVE * right.abs() + lost,
        eta,
        lambda at, x: (
            f"family must have the same {name} by {method} and by {name}; got {family}, with "
            f"{float(value[at]):.6g} and {float(right[at]):.6g} at natural parameter {x:g}. "
            "Override both"
        ),
    )


def _check_convexity(family: ExponentialFamily, variance: Tensor, eta: Tensor) -> None:
    refuse_unless(
        variance >= 0,
        eta,
        lambda at, x: (
            f"family must have a convex log_partition; got {family}, whose variance is "
            f"{float(variance[at]):.6g} at natural parameter {x:g}"
        ),
    )
    if not bool(variance.any()):
        raise ValueError(
            "family must have a log_partition that is not linear, since its second derivative is "
            f"the variance of an observation; got {family}, whose variance is 0 at every natural "
            "parameter"
        )


def _check_self_concordance(
    family: ExponentialFamily, values: dict[str, Tensor], eta: Tensor
) -> None:
    bound = family.self_concordance
    if bound is None:
        return
    wanted = "a number M with |A'''| <= M A'' at all natural parameters, which bounds the steps"
    if not isinstance(bound, int | float) or not 0 <= bound < math.inf:
        raise ValueError(
            f"family must have a finite self_concordance, {wanted}; got {bound!r} of {family}"
        )
    variance = values["variance"]
    slope, lost = slope_of(family.variance, eta)
    refuse_unless(
        slope.abs() <= bound * variance * (1 + RELATIVE) + lost,
        eta,
        lambda at, x: (
            f"family must have a self_concordance of at least "
            f"{float(slope[at].abs() / variance[at]):.6g}, {wanted}; got {bound:g} of {family}, "
            f"whose variance is {float(variance[at]):.6g} with slope {float(slope[at]):.6g} at "
            f"natural parameter {x:g}"
        ),
    )


def _check_draws(family: ExponentialFamily) -> None:
    """Checks the log density of draws, and that ``observation`` inverts the statistic."""
    eta = torch.linspace(-3, 3, 13, dtype=torch.float64, device=device_of(family)).unsqueeze(-1)
    eta = eta.expand(family.mean(eta).shape)
    devices = [eta.device] if eta.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            y = family.sample(eta)
        measure = family.log_base_measure(y)
    except NotImplementedError:
        return
    statistic = family.sufficient_statistic(y)
    back = family.observation(statistic)
    refuse_unless(
        (back - y).abs() <= RELATIVE * (1 + y.abs()),
        y,
        lambda at, x: (
            "family must have an observation that is the inverse of its sufficient_statistic; got "
            f"{family}, whose observation of the statistic of {x:g} is {float(back[at]):g}"
        ),
    )
    loss = family.log_partition(eta) - statistic * eta
    given, right = family.log_prob(y, eta), measure - loss
    refuse_unless(
        (given - right).abs() <= RELATIVE * (1 + loss.abs() + measure.abs()),
        eta,
        lambda at, x: (
            "family must have the log_prob log_base_measure(y) + T(y) eta - log_partition(eta); "
            f"got {family}, whose log_prob of {float(y[at]):g} at natural parameter {x:g} is "
            f"{float(given[at]):.6g} instead of {float(right[at]):.6g}"
        ),
    )


def refuse_unless(
    fits: Tensor, where: Tensor, message: Callable[[tuple[int, ...], float], str]
) -> None:
    """Raises an error for the first entry that does not fit; NaN never fits."""
    if not bool(fits.all()):
        at = tuple(int(k) for k in (~fits).nonzero()[0])
        raise ValueError(message(at, float(where[at])))
