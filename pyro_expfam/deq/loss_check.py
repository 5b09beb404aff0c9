"""The requirements of the layer on any law of an observation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from pyro_expfam.deq.canonical import RELATIVE, device_of, refuse_unless, slope_of
from pyro_expfam.families import Family
from pyro_expfam.families.elementwise import check_elementwise

KINKS = 0.05
"""The part of the points at which a derivative may differ from differences: a loss may have
kinks."""

DERIVATIVES = ("loss", "score", "curvature", "third_derivative", "fourth_derivative")
"""The loss and its derivatives; the score is minus the first."""


def check_losses(family: Family) -> None:
    """Raises an error unless the functions of a law fit together.

    For drawn observations, ``score`` is minus the derivative of ``loss``, ``curvature`` is minus
    the derivative of ``score`` and so on. A loss that calls itself convex has a curvature that is
    not negative and equal to the information, and within its ``self_concordance``. All of this is
    checked at 65 linear predictors between -8 and 8, in float64.

    Raises:
        ValueError: if one of its functions does not fit; the message names it, and says where.
    """
    eta, y = _points(family)
    for name in ("loss", "score", "curvature", "information"):
        check_elementwise(f"{name} of {family}", getattr(family, name), eta, y)
    check_elementwise(f"log_prob of {family}", family.log_prob, y, eta)
    values = {}
    for name in DERIVATIVES:
        try:
            values[name] = getattr(family, name)(eta, y).expand(eta.shape)
        except NotImplementedError:
            if name in DERIVATIVES[:3]:
                raise
    information = family.information(eta, y).expand(eta.shape)
    for name, value in [*values.items(), ("information", information)]:
        _check_finite(family, name, value, eta)
    _check_difference(family, values["loss"], eta, y)
    for lower, upper in pairwise(DERIVATIVES):
        if upper in values:
            _check_derivative(family, lower, upper, values[upper], eta, y)
    _check_positive(family, "information", information, eta)
    if family.is_convex:
        _check_positive(family, "curvature", values["curvature"], eta)
    if family.self_concordance is not None:
        _check_self_concordance(family, family.self_concordance, values["curvature"], eta, y)


def _points(family: Family) -> tuple[Tensor, Tensor]:
    """Linear predictors in the shape of the family's own parameters, and drawn observations.

    Of a family that cannot be drawn from, the observations are means.
    """
    eta = torch.linspace(-8, 8, 65, dtype=torch.float64, device=device_of(family)).unsqueeze(-1)
    devices = [eta.device] if eta.device.type == "cuda" else []
    # Observations of moderate size suit all linear predictors.
    try:
        with torch.random.fork_rng(devices=devices):
            y = family.sample(eta / 4)
    except NotImplementedError:
        y = family.expected_y(eta / 4)
    return eta.expand(y.shape), y


def _check_finite(family: Family, name: str, value: Tensor, eta: Tensor) -> None:
    refuse_unless(
        value.isfinite(),
        eta,
        lambda at, x: (
            f"family must have a finite {name} at every linear predictor; got {family}, whose "
            f"{name} is {float(value[at]):g} at {x:g}"
        ),
    )


def _check_positive(family: Family, name: str, value: Tensor, eta: Tensor) -> None:
    refuse_unless(
        value >= 0,
        eta,
        lambda at, x: (
            f"family must have a {name} that is not negative; got {family}, whose {name} is "
            f"{float(value[at]):.6g} at linear predictor {x:g}. Where the loss is not convex, set "
            "is_convex to False, and override information with the expected curvature"
        ),
    )


def _check_difference(family: Family, loss: Tensor, eta: Tensor, y: Tensor) -> None:
    """Checks that loss and log density differ by what is free of the linear predictor."""
    both = family.log_prob(y, eta) + loss
    base = family.log_base_measure(y)
    size = 1 + loss.abs() + base.abs()
    refuse_unless(
        (both - base).abs() <= RELATIVE * size,
        eta,
        lambda at, x: (
            f"family must have the log_prob log_base_measure(y) - loss(eta, y); got {family}, "
            f"where they differ by {float((both - base)[at]):.6g} at linear predictor {x:g}"
        ),
    )


def _check_derivative(
    family: Family, lower: str, upper: str, claimed: Tensor, eta: Tensor, y: Tensor
) -> None:
    sign = -1.0 if "score" in (lower, upper) else 1.0
    slope, lost = slope_of(_of_predictor(family, lower, y), eta)
    slope = sign * slope
    near = (claimed - slope).abs() <= RELATIVE * (slope.abs() + 1e-4) + lost
    if family.self_concordance is None and float((~near).double().mean()) <= KINKS:
        return
    refuse_unless(
        near,
        eta,
        lambda at, x: (
            f"family must have a {upper} that is {'minus ' if sign < 0 else ''}the derivative of "
            f"its {lower}; got {family}, whose {upper} is {float(claimed[at]):.6g} at linear "
            f"predictor {x:g} of {float(y[at]):g}, where the derivative gives "
            f"{float(slope[at]):.6g}"
        ),
    )


def _check_self_concordance(
    family: Family, bound: float, curvature: Tensor, eta: Tensor, y: Tensor
) -> None:
    slope, lost = slope_of(_of_predictor(family, "curvature", y), eta)
    refuse_unless(
        slope.abs() <= bound * curvature * (1 + RELATIVE) + lost,
        eta,
        lambda at, x: (
            f"family must have a self_concordance M with |third derivative| <= M curvature, or "
            f"None; got {bound:g} of {family}, whose curvature is {float(curvature[at]):.6g} with "
            f"slope {float(slope[at]):.6g} at linear predictor {x:g} of {float(y[at]):g}"
        ),
    )


def _of_predictor(family: Family, name: str, y: Tensor) -> Callable[[Tensor], Tensor]:
    function = getattr(family, name)
    return lambda eta: function(eta, y)
