"""The requirements of the layer on a family, checked where a family enters."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import constraints

from pyro_expfam import families, links
from pyro_expfam.deq.canonical import check_canonical, check_domain, refuse_overrides
from pyro_expfam.deq.loss_check import check_losses
from pyro_expfam.families import Columns, ExponentialFamily, Family, Linked

CHECKED_BY_THE_SUITE = frozenset(
    value
    for value in vars(families).values()
    if isinstance(value, type) and issubclass(value, Family)
) - {Family, ExponentialFamily, Linked}
"""The families of the package, which the test suite checks, so that a program need not."""

LINKS = frozenset(value for value in vars(links).values() if isinstance(value, type)) - {
    links.Link,
    links.Mean,
    links.NaturalParameter,
}
"""The links of the package, but for those that hold a function of the user's."""

Key = tuple[Any, ...]
_PASSED: set[Key] = set()


def check_family(family: Any) -> None:
    r"""Raises an error unless the layer can solve for the latents of a family.

    The solvers, gradients and evidence use the derivatives of the loss as functions of the linear
    predictor, which may be any real number. A family that is not one of the package is checked at
    some linear predictors, in float64: whether its functions are each other's derivatives, and
    whether it is as convex as it says. The families of the package are checked by the package's
    own tests.

    Raises:
        TypeError: if ``family`` is not a family.
        ValueError: if one of its functions does not fit; the message names it, and says where.
    """
    if isinstance(family, Columns):
        for part in family.parts:
            check_family(part.family)
        return
    if isinstance(family, Linked):
        _check_domain_of_link(family)
    if _is_of_the_package(family):
        return
    if not isinstance(family, Family):
        raise TypeError(
            f"family must be a family such as pyro_expfam.families.Poisson(), got {family!r}"
        )
    refuse_overrides(type(family))
    key = _key(family)
    if key in _PASSED:
        return
    if isinstance(family, ExponentialFamily):
        check_domain(family)
    elif not _is_whole_line(family):
        raise ValueError(f"{_wanted(family)}: give it a link onto that domain")
    # While tracing, a check would see only the numbers of the first run.
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    with torch.no_grad():
        if isinstance(family, ExponentialFamily):
            check_canonical(family)
        else:
            check_losses(family.rows(slice(0, 1)) if family.differs_by_row else family)
    if key is not None:
        _PASSED.add(key)


def _check_domain_of_link(family: Linked) -> None:
    if not _is_whole_line(family):
        raise ValueError(
            f"{_wanted(family)}: take Log() or Softplus() in place of {family.link}, whose means "
            "are positive at every linear predictor"
        )


def _is_whole_line(family: Family) -> bool:
    return type(family.predictor_domain) is type(constraints.real)


def _wanted(family: Family) -> str:
    return (
        "family must have linear predictors on the whole real line, because the linear predictor "
        f"W z + b takes any value; got {family}, whose predictor_domain is "
        f"{family.predictor_domain}"
    )


def _is_of_the_package(family: Any) -> bool:
    if type(family) is Linked:
        own_link = type(family.link) in LINKS
        return own_link and type(family.base) in CHECKED_BY_THE_SUITE
    return type(family) in CHECKED_BY_THE_SUITE


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
