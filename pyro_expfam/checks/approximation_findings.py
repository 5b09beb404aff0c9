"""Whether the approximate posterior and evidence of rows agree with the model, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.estimates import OBJECTIVES, is_near_optimum
from pyro_expfam.checks.finding import NOTE, OK, PROBLEM, Finding
from pyro_expfam.checks.names import listing
from pyro_expfam.checks.rows import Rows

NO_ERROR, SMALL_ERROR, LARGE_ERROR = 1e-5, 0.02, 0.2
"""Errors of the log evidence in nats per row: the last two are factors of 1.02 and 1.22."""

LARGE_PART, SOME_NATS = 0.25, 5.0
"""An error of the evidence may decide a fit if it exceeds this part of the gain from the latents
and this number of nats."""

SMALL_SHIFT, LARGE_SHIFT = 0.1, 0.5
"""Distances between posterior mean and root in posterior standard deviations."""

FEW = 0.05
"""Up to this part of the rows counts as an exception."""

FEW_COLUMNS = (
    "Few columns determine latents too little for a normal around the root. With up to 3 latents "
    "train with LaplaceEvidence(nodes=7). Else take more columns or fewer latents, or shrink the "
    "loading by a smaller loading_scale. If features are many and events rare, train with "
    "LaplaceEvidence(order=2)."
)


def approximation_findings(check: BlockCheck) -> list[Finding]:
    """Whether normals are close to the posterior of latents and of loading and intercept.

    What holds for all tables whose latents are found together is said of the first.
    """
    solved = check.rows.converged
    if not bool(solved.any()) or not check.conditioning.is_first:
        return [*_coefficients(check)]
    rows = Rows(*(values[solved] for values in check.rows))
    return [
        *_normality(check, rows),
        *_evidence(check, rows),
        *_gain(check, rows),
        *_means(rows),
        *_coefficients(check),
    ]


def _normality(check: BlockCheck, rows: Rows) -> Iterator[Finding]:
    high = check.rows.converged & ~(check.rows.khat <= check.rows.khat_threshold)
    largest = float(rows.khat.max())
    if bool(high.any()):
        few = int(high.sum()) <= FEW * check.num_rows
        yield Finding(
            NOTE if few else PROBLEM,
            "posterior",
            f"Pareto k-hat is too high for {check.names.of_rows(high)}, up to {largest:.2f}: the "
            "latents of these rows have a posterior with a tail that the normal around the root "
            "misses, and importance sampling cannot repair it. These rows determine their latents "
            "too little for a normal; NUTS samples their posterior as it is.",
        )
    elif largest == -torch.inf:
        yield Finding(
            OK,
            "posterior",
            "given loading and intercept, the normal around the root is the posterior of every "
            "row's latents: importance weights vary by less than a tenth.",
        )
    else:
        yield Finding(
            OK,
            "posterior",
            "given loading and intercept, the normal around the root is close to the posterior of "
            f"every row's latents: Pareto k-hat is at most {largest:.2f}.",
        )


class _Totals(NamedTuple):
    """Log evidence of the solved rows, in nats.

    Attributes:
        first: the value by Laplace.
        second: the value to second order.
        integral: the value by quadrature or importance sampling.
        error: the error of the integral.
    """

    first: float
    second: float
    integral: float
    error: float


def _totals(check: BlockCheck, rows: Rows) -> _Totals:
    first, second, integral = (
        float(x.sum()) for x in (rows.first_order, rows.second_order, rows.integral)
    )
    if check.is_integrated:
        # Rows that are alike have the same error.
        error = float(rows.integral_error.sum())
    else:
        error = float(rows.integral_error.square().sum().sqrt())
    return _Totals(first, second, integral, error)


def _method(check: BlockCheck) -> str:
    return "quadrature" if check.is_integrated else "importance sampling"


def _evidence(check: BlockCheck, rows: Rows) -> Iterator[Finding]:
    count, found = len(rows.first_order), _totals(check, rows)
    digits = _digits(found.error)
    others = check.conditioning.others
    of = f"{others[0].upper()}{others[1:]} together: " if others else ""
    has_second = not math.isnan(found.second)
    to_second = f"{found.second:.{digits}f} to second order, " if has_second else ""
    totals = (
        f"{of}{found.first:.{digits}f} nats by Laplace, {to_second}"
        f"{found.integral:.{digits}f} ± {found.error:.1g} by {_method(check)}."
    )
    off = [(found.integral - value) / count for value in (found.first, found.second)]
    margin = 3 * found.error / count
    sizes = [max(abs(value) - margin, 0.0) for value in off]
    of_second = f", the second order {_off(off[1])}" if has_second else ""
    per_row = f"Laplace is {_off(off[0])} nats a row{of_second} (± {found.error / count:.1g})."
    if max(map(abs, off)) < NO_ERROR:
        per_row = "Laplace is exact."
    nearest = check.estimates.nearest
    if sizes[0] <= SMALL_ERROR:
        yield Finding(OK, "evidence", f"{totals} {per_row}")
    elif nearest is not None and nearest[1] == OBJECTIVES[3]:
        yield Finding(OK, "evidence", f"{totals} {per_row} Training has taken quadrature.")
    elif sizes[1] <= SMALL_ERROR:
        yield Finding(NOTE, "evidence", f"{totals} {per_row} Take the second order.")
    else:
        allowed = "" if check.is_integrated else ", if k-hat allows"
        known = "Neither order" if has_second else "It"
        yield Finding(
            PROBLEM if sizes[int(has_second)] > LARGE_ERROR else NOTE,
            "evidence",
            f"{totals} {per_row} {known} is {'' if has_second else 'not '}enough: take "
            f"{_method(check)}{allowed}.",
        )


def _gain(check: BlockCheck, rows: Rows) -> Iterator[Finding]:
    """Whether latents explain more than independent columns do, and whether Laplace can tell."""
    nearest = check.estimates.nearest
    if not check.conditioning.is_of_tables or len(rows.first_order) < check.num_rows:
        return
    if check.row_effect == "fixed":
        # Under a flat prior the evidence has a constant that means nothing.
        return
    if nearest is None or not is_near_optimum(nearest[0]):
        return
    found = _totals(check, rows)
    gain = found.integral - check.without_latents
    # Independent columns are at their own optimum, which gains each half a nat by chance.
    # One level of a category is redundant.
    num_levels = check.family.column_of_predictor(check.num_features).bincount()
    more_levels = int((num_levels - 2).clamp(min=0).sum())
    free = check.conditioning.num_features + more_levels
    margin = free + 3 * found.error
    is_joint = nearest[1] == OBJECTIVES[0]
    if gain < -margin:
        cure = (
            "Joint MAP makes the loading too large: train with pyro_expfam.LaplaceEvidence."
            if is_joint
            else f"The approximate evidence has misled the fit. {FEW_COLUMNS}"
        )
        yield Finding(
            NOTE if is_joint else PROBLEM,
            "evidence",
            "the latents explain less than independent columns do: "
            f"{found.integral:.1f} nats by {_method(check)}, against {check.without_latents:.1f}. "
            f"{cure}",
        )
        return
    if nearest[1] == OBJECTIVES[3]:
        return
    order = "to second order" if nearest[1] == OBJECTIVES[2] else "by Laplace"
    fitted = found.second if nearest[1] == OBJECTIVES[2] else found.first
    error = abs(fitted - found.integral) - 3 * found.error
    if not is_joint and error > SOME_NATS and error > LARGE_PART * gain:
        yield Finding(
            PROBLEM,
            "evidence",
            f"the latents gain {gain:.1f} nats over independent columns, and the evidence "
            f"{order}, which trained the guide, is off by {abs(fitted - found.integral):.1f}. It "
            f"cannot tell a good loading from a bad one here. {FEW_COLUMNS}",
        )


def _means(rows: Rows) -> Iterator[Finding]:
    shift = rows.mean_shift
    mean, largest = float(shift.mean()), float(shift.max())
    if math.isnan(mean):
        return
    if largest == 0:
        yield Finding(OK, "means", "posterior means are at the root.")
        return
    text = (
        f"posterior means are {mean:.2g} posterior sd from the root on average, {largest:.2g} at "
        "most, by skewness"
    )
    if mean <= SMALL_SHIFT:
        yield Finding(OK, "means", f"{text}.")
    elif mean <= LARGE_SHIFT:
        yield Finding(NOTE, "means", f"{text}; evidence.posterior_mean corrects for it.")
    else:
        yield Finding(
            PROBLEM,
            "means",
            f"{text}: this is too far for a correction. Take draws by "
            "evidence.importance_latents, or by NUTS.",
        )


def _coefficients(check: BlockCheck) -> Iterator[Finding]:
    """Columns whose loading and intercept do not have a normal posterior."""
    if check.unreliable_columns is None:
        return
    places = check.unreliable_columns.nonzero().flatten().tolist()
    if not places:
        yield Finding(OK, "loading", "no column has a loading and intercept too skew for a normal.")
        return
    few = len(places) <= FEW * check.num_features
    listed = listing(check.names.column(place) for place in places)
    yield Finding(
        NOTE if few else PROBLEM,
        "loading",
        "the posterior of loading and intercept is too skew for a normal in "
        f"{len(places):,} of {check.num_features:,} features ({listed}): do not rely on their "
        "intervals and draws. Where a column has next to no events, take a smaller "
        "intercept_scale; where the table hardly determines its loading, take fewer latents or a "
        "smaller loading_scale. NUTS samples the posterior as it is.",
    )


def _digits(error: float) -> int:
    """Decimals of a number with this error."""
    return next((digits for digits in range(4) if error >= 10.0**-digits), 4)


def _off(missing: float) -> str:
    """How far a value is off, from the amount it is missing."""
    return f"too {'low' if missing > 0 else 'high'} by {abs(missing):.2g}"
