"""The requirements of the layer on a family, checked where a family enters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam import families
from pyro_expfam.families import Family

CHECKED_BY_THE_SUITE = frozenset(
    value
    for value in vars(families).values()
    if isinstance(value, type) and issubclass(value, Family) and value is not Family
)
"""The families of the package, which the test suite checks, so that a program need not."""

FOLLOW = ("loss", "score", "fisher_weight")
"""Functions that follow from the cumulants, and that a subclass must not override."""

CUMULANTS = ("log_partition", "mean", "variance", "third_cumulant", "fourth_cumulant")
"""The log-partition and its derivatives, each the derivative of the one before."""

DISTANCE = 2e-3
"""The distance between the points of a finite difference."""

RELATIVE, ABSOLUTE = 1e-4, 1e-9
"""Tolerances of a function: relative to its value, and to the terms of a finite difference."""

Key = tuple[Any, ...]
_PASSED: set[Key] = set()


def check_family(family: Any) -> None:
    r"""Raises an error unless the layer can solve for the latents of a family.

    The solvers, gradients and evidence use the log-partition and its derivatives as functions of
    the linear predictor. They need a canonical family: the natural parameter may be any real
    number, ``mean`` is the derivative of ``log_partition``, ``variance`` is the derivative of
    ``mean`` and so on, and ``self_concordance`` is finite. All of this is checked at 73 natural
    parameters between -20 and 20, in float64. The families of the package are checked by the
    package's own tests.

    Raises:
        TypeError: if ``family`` is not a family.
        ValueError: if one of its functions does not fit; the message names it.
    """
    if type(family) in CHECKED_BY_THE_SUITE:
        return
    if not isinstance(family, Family):
        raise TypeError(
            f"family must be a family such as pyro_expfam.families.Poisson(), got {family!r}"
        )
    refuse_link(type(family))
    key = _key(family)
    if key in _PASSED:
        return
    _check_domain(family)
    # While tracing, a check would see only the numbers of the first run.
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    with torch.no_grad():
        _check_functions(family.rows(slice(0, 1)) if family.differs_by_row else family)
    if key is not None:
        _PASSED.add(key)


@lru_cache(maxsize=256)
def refuse_link(kind: type[Family]) -> None:
    """Raises an error if a class of families overrides a function of :data:`FOLLOW`."""
    for name in FOLLOW:
        if getattr(kind, name) is not getattr(Family, name):
            raise ValueError(
                f"family must not override {name}, got {kind.__name__}, which does: the "
                "layer solves for the root of the canonical score, T(y) - mean(eta), whatever "
                f"{name} returns. For another family override log_partition, mean, variance, "
                "third_cumulant and fourth_cumulant, each the derivative of the one before. Links "
                "that are not canonical are not supported"
            )


def _key(family: Family) -> Key | None:
    """Everything that the functions of a family depend on, or None if some of it may change."""
    own = vars(family)
    if not all(isinstance(value, int | float | str | None) for value in own.values()):
        # Tensors and other containers change in place.
        return None
    classes = [kind for kind in type(family).__mro__ if issubclass(kind, Family)]
    attributes = [
        (name, value)
        for kind in classes
        for name, value in vars(kind).items()
        if not name.startswith("__") and name != "_abc_impl"
    ]
    key = (type(family), tuple(own.items()), tuple(attributes))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _check_domain(family: Family) -> None:
    domain = family.natural_domain
    if type(domain) is not type(constraints.real):
        raise ValueError(
            "family must have natural parameters on the whole real line, because the linear "
            f"predictor W z + b takes any value; got {family}, whose natural_domain is {domain}"
        )


def _check_functions(family: Family) -> None:
    eta = _grid(family)
    values = dict(_known_cumulants(family, eta))
    for name, value in values.items():
        _check_finite(family, name, value, eta)
    for lower, upper in pairwise(CUMULANTS):
        if lower in values and upper in values:
            _check_derivative(family, lower, upper, values[upper], eta)
    _check_shared(family, values, eta)
    _check_self_concordance(family, values, eta)
    _check_draws(family)


def _check_finite(family: Family, name: str, value: Tensor, eta: Tensor) -> None:
    _refuse_unless(
        value.isfinite(),
        eta,
        lambda at, x: (
            f"family must have natural parameters on the whole real line; got {family}, whose "
            f"{name} is {float(value[at]):g} at natural parameter {x:g}"
        ),
    )


def _grid(family: Family) -> Tensor:
    """Natural parameters in the shape of the family's own parameters, ``(73, ...)``."""
    near = torch.linspace(-8, 8, 65, dtype=torch.float64)
    far = torch.tensor([-20.0, -15.0, -12.0, -10.0, 10.0, 12.0, 15.0, 20.0], dtype=torch.float64)
    eta = torch.cat([near, far]).unsqueeze(-1).to(_device(family))
    return eta.expand(family.mean(eta).shape).clone(memory_format=torch.contiguous_format)


def _device(family: Family) -> torch.device:
    tensors = (value for value in vars(family).values() if isinstance(value, Tensor))
    return next((value.device for value in tensors), torch.device("cpu"))


def _known_cumulants(family: Family, eta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The cumulants that a family implements; orders above the variance are optional."""
    for name in CUMULANTS:
        try:
            value = getattr(family, name)(eta)
        except NotImplementedError:
            if name in CUMULANTS[:3]:
                raise
            continue
        yield name, value.expand(eta.shape)


def _check_derivative(family: Family, lower: str, upper: str, claimed: Tensor, eta: Tensor) -> None:
    slope, lost = _slope(getattr(family, lower), eta)
    near = (claimed - slope).abs() <= RELATIVE * slope.abs() + lost
    _refuse_unless(
        near,
        eta,
        lambda at, x: (
            f"family must have a {upper} that is the derivative of its {lower}; got {family}, "
            f"whose {upper} is {float(claimed[at]):.6g} at natural parameter {x:g}, where "
            f"{lower} has the slope {float(slope[at]):.6g}. Override both"
        ),
    )


def _slope(function: Callable[[Tensor], Tensor], eta: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of a function by differences of fourth order, and its rounding error."""
    low, lower, upper, high = (function(eta + k * DISTANCE) for k in (-2, -1, 1, 2))
    slope = (low - 8 * lower + 8 * upper - high) / (12 * DISTANCE)
    return slope, ABSOLUTE * torch.maximum(low.abs(), high.abs())


def _check_shared(family: Family, values: dict[str, Tensor], eta: Tensor) -> None:
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
    family: Family,
    shared: tuple[str, Tensor],
    alone: tuple[str, Tensor],
    lost: Tensor,
    eta: Tensor,
) -> None:
    (method, value), (name, right) = shared, alone
    _refuse_unless(
        (value - right).abs() <= RELATIVE * right.abs() + lost,
        eta,
        lambda at, x: (
            f"family must have the same {name} by {method} and by {name}; got {family}, with "
            f"{float(value[at]):.6g} and {float(right[at]):.6g} at natural parameter {x:g}. "
            "Override both"
        ),
    )


def _check_self_concordance(family: Family, values: dict[str, Tensor], eta: Tensor) -> None:
    bound = getattr(family, "self_concordance", None)
    wanted = "a number M with |A'''| <= M A'' at all natural parameters, which bounds the steps"
    if not isinstance(bound, int | float) or not 0 <= bound < math.inf:
        raise ValueError(
            f"family must have a finite self_concordance, {wanted}; got {bound!r} of {family}"
        )
    variance = values["variance"]
    slope, lost = _slope(family.variance, eta)
    _refuse_unless(
        slope.abs() <= bound * variance * (1 + RELATIVE) + lost,
        eta,
        lambda at, x: (
            f"family must have a self_concordance of at least "
            f"{float(slope[at].abs() / variance[at]):.6g}, {wanted}; got {bound:g} of {family}, "
            f"whose variance is {float(variance[at]):.6g} with slope {float(slope[at]):.6g} at "
            f"natural parameter {x:g}"
        ),
    )


def _check_draws(family: Family) -> None:
    """Checks the log density of draws, and that ``observation`` inverts the statistic."""
    eta = torch.linspace(-3, 3, 13, dtype=torch.float64, device=_device(family)).unsqueeze(-1)
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
    _refuse_unless(
        (back - y).abs() <= RELATIVE * (1 + y.abs()),
        y,
        lambda at, x: (
            "family must have an observation that is the inverse of its sufficient_statistic; got "
            f"{family}, whose observation of the statistic of {x:g} is {float(back[at]):g}"
        ),
    )
    loss = family.log_partition(eta) - statistic * eta
    given, right = family.log_prob(y, eta), measure - loss
    _refuse_unless(
        (given - right).abs() <= RELATIVE * (1 + loss.abs() + measure.abs()),
        eta,
        lambda at, x: (
            "family must have the log_prob log_base_measure(y) + T(y) eta - log_partition(eta); "
            f"got {family}, whose log_prob of {float(y[at]):g} at natural parameter {x:g} is "
            f"{float(given[at]):.6g} instead of {float(right[at]):.6g}"
        ),
    )


def _refuse_unless(
    fits: Tensor, where: Tensor, message: Callable[[tuple[int, ...], float], str]
) -> None:
    """Raises an error for the first entry that does not fit; NaN never fits."""
    if not bool(fits.all()):
        at = tuple(int(k) for k in (~fits).nonzero()[0])
        raise ValueError(message(at, float(where[at])))
