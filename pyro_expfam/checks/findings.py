"""What the numbers of a check mean, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.estimates import Estimates, Gap
from pyro_expfam.checks.rows import Rows

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"

AT_OPTIMUM = Gap(gain=1e-3, distance=0.1)
"""Less than either is nothing: a step of training changes no conclusion."""

NEAR_OPTIMUM = Gap(gain=0.05, distance=2.0)
"""Rows that did not train the model, but follow it, are about one standard deviation away."""

UNUSED_INFORMATION = 0.05
"""Latents on which rows say less than this part of the prior are not used."""

ORDINARY_SPREAD = (0.5, 2.0)
"""Latents with a mean square in this range, relative to the prior variance, fit their prior."""

NO_ERROR, SMALL_ERROR, LARGE_ERROR = 1e-5, 0.02, 0.2
"""Errors of the log evidence in nats a row: the last two are factors of 1.02 and 1.22."""

SMALL_SHIFT, LARGE_SHIFT = 0.1, 0.5
"""Distances of posterior mean and root in posterior standard deviations."""

LARGE_LOADING = (
    "the loading is too large for this prior, as joint MAP makes it. Posteriors of rows are then "
    "too wide, and new rows are explained less well than after training with "
    "pyro_expfam.LaplaceEvidence."
)
SMALL_LOADING = "the loading is too small for this prior, and posteriors of rows are too narrow."

FEW = 0.05
"""Up to this part of the rows is an exception."""

MOST_LISTED = 5


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: ``"ok"``, ``"note"`` for what to keep in mind, or ``"PROBLEM"``.
        subject: what it is about, in a word.
        text: what it is.
    """

    level: str
    subject: str
    text: str


def findings(check: BlockCheck) -> list[Finding]:
    """What was found of a block, in words."""
    found = [*_convergence(check), *_training(check), *_columns(check), *_latents(check)]
    solved = check.rows.converged
    if bool(solved.any()):
        rows = Rows(*(values[solved] for values in check.rows))
        found += [*_normality(check, rows), *_evidence(rows), *_means(rows)]
    return found


def _convergence(check: BlockCheck) -> Iterator[Finding]:
    rows = check.rows
    failed = ~rows.converged
    if bool(failed.any()):
        worst = float(rows.residual[failed].max())
        yield Finding(
            PROBLEM,
            "solving",
            f"{_rows(failed)} {_be(failed)} not at the root of the score; the farthest is "
            f"{worst:.2g} posterior sd away. What follows of posteriors and evidence is without "
            "them. Give the guide another solver, or more iterations.",
        )
    else:
        yield Finding(
            OK,
            "solving",
            f"the latents of all {check.num_rows:,} rows are at the root of the score.",
        )
    blank = rows.num_entries == 0
    if bool(blank.any()):
        yield Finding(
            NOTE,
            "solving",
            f"{_rows(blank)} {_be(blank)} without any entry: all that is known there is the prior.",
        )


def _training(check: BlockCheck) -> Iterator[Finding]:
    found = check.estimates
    nearest = _nearest(found)
    if nearest is None:
        yield Finding(
            NOTE,
            "training",
            "the prior of loading or intercept is your own: how far they are from an optimum "
            "is not checked.",
        )
        return
    gap, objective = nearest
    step = (
        f"the next step of scoring would move them by {gap.distance:.2g} sd, and gain "
        f"{gap.gain:.2g} nats a row."
    )
    if _within(gap, AT_OPTIMUM):
        yield Finding(
            OK, "training", f"loading and intercept are at an optimum of the {objective}: {step}"
        )
    elif _within(gap, NEAR_OPTIMUM):
        yield Finding(
            NOTE,
            "training",
            f"loading and intercept are near an optimum of the {objective}, not at it: {step} "
            f"That is to be expected if {_excuse(check)}; otherwise train longer.",
        )
    else:
        yield Finding(
            PROBLEM,
            "training",
            f"loading and intercept are far from any optimum: {step} The guide is not trained"
            f"{', or not on rows like these' if check.is_whole_model else ' by this table alone'}.",
        )
    if found.has_flat_loading and objective == "joint density":
        yield Finding(
            PROBLEM,
            "training",
            "the loading has a flat prior: joint MAP then has no optimum, latents shrink and "
            "loadings grow without end. Give the block a loading_scale, or train with "
            "pyro_expfam.LaplaceEvidence.",
        )


def _nearest(found: Estimates) -> tuple[Gap, str] | None:
    """The gap to the objective that loading and intercept are nearest to, and its name."""
    gaps = {
        "joint density": found.joint,
        "evidence": found.evidence,
        "evidence to second order": found.second_order,
    }
    known = [(gap, name) for name, gap in gaps.items() if gap is not None]
    return min(known, key=lambda pair: pair[0].distance) if known else None


def _is_trained(check: BlockCheck) -> bool:
    nearest = _nearest(check.estimates)
    return nearest is None or _within(nearest[0], NEAR_OPTIMUM)


def _excuse(check: BlockCheck) -> str:
    rows = "these rows did not train the guide"
    return rows if check.is_whole_model else f"{rows}, or other parts of the model have a say"


def _columns(check: BlockCheck) -> Iterator[Finding]:
    found = check.estimates
    if found.extreme_features and found.has_flat_intercept:
        yield Finding(
            NOTE,
            "columns",
            f"{_features(found.extreme_features)} at one edge of what is possible in "
            "every row, such as all zero: under a flat prior the intercept runs away, and its "
            "value means nothing. Drop them, or give the block an intercept_scale.",
        )
    if found.empty_features:
        yield Finding(
            NOTE,
            "columns",
            f"{_features(found.empty_features)} without any entry: nothing is known "
            "of loading and intercept there.",
        )


def _latents(check: BlockCheck) -> Iterator[Finding]:
    found, size = check.estimates, check.latent_dim
    unused = int((found.information < UNUSED_INFORMATION).sum())
    if unused:
        level = PROBLEM if unused == size else NOTE
        yield Finding(
            level,
            "latents",
            f"{unused} of {size} {'is' if unused == 1 else 'are'} not used: the loading is nearly "
            "zero there, and rows say nothing about it.",
        )
    low, high = ORDINARY_SPREAD
    if unused < size and _is_trained(check) and not low <= found.spread <= high:
        yield Finding(
            NOTE,
            "latents",
            f"their mean square is {found.spread:.2g} times the prior variance: "
            f"{LARGE_LOADING if found.spread < 1 else SMALL_LOADING}",
        )
    basis = "a rotation" if size > 1 else "their sign"
    yield Finding(
        NOTE,
        "latents",
        f"they are known up to {basis}: compare coordinates of fits or draws after "
        "pyro_expfam.align.",
    )


def _normality(check: BlockCheck, rows: Rows) -> Iterator[Finding]:
    high = check.rows.converged & ~(check.rows.khat <= check.rows.khat_threshold)
    largest = float(rows.khat.max())
    if bool(high.any()):
        few = int(high.sum()) <= FEW * check.num_rows
        yield Finding(
            NOTE if few else PROBLEM,
            "posterior",
            f"Pareto k-hat is too high for {_rows(high)}, up to {largest:.2f}: there the Laplace "
            "posterior misses a tail of the true one, more than importance sampling can repair. "
            "Such rows hold too little for a normal; NUTS samples them as they are.",
        )
    elif largest == -torch.inf:
        yield Finding(OK, "posterior", "the Laplace posterior of every row is the true one.")
    else:
        yield Finding(
            OK,
            "posterior",
            f"Pareto k-hat is at most {largest:.2f}: the Laplace posterior of every row covers the "
            "true one.",
        )


def _evidence(rows: Rows) -> Iterator[Finding]:
    count = len(rows.first_order)
    first, second, sampled = (
        float(x.sum()) for x in (rows.first_order, rows.second_order, rows.importance)
    )
    error = float(rows.standard_error.square().sum().sqrt())
    totals = (
        f"{first:.{_digits(error)}f} nats by Laplace, {second:.{_digits(error)}f} to second order, "
        f"{sampled:.{_digits(error)}f} ± {error:.1g} by importance sampling."
    )
    off = [(sampled - value) / count for value in (first, second)]
    margin = 3 * error / count
    sizes = [max(abs(value) - margin, 0.0) for value in off]
    per_row = (
        f"Laplace is {_off(off[0])} nats a row, the second order {_off(off[1])} "
        f"(± {error / count:.1g})."
    )
    if max(map(abs, off)) < NO_ERROR:
        per_row = "Laplace is exact."
    if sizes[0] <= SMALL_ERROR:
        yield Finding(OK, "evidence", f"{totals} {per_row}")
    elif sizes[1] <= SMALL_ERROR:
        yield Finding(NOTE, "evidence", f"{totals} {per_row} Take the second order.")
    else:
        yield Finding(
            PROBLEM if sizes[1] > LARGE_ERROR else NOTE,
            "evidence",
            f"{totals} {per_row} Neither order is enough: take importance sampling, where k-hat "
            "allows.",
        )


def _means(rows: Rows) -> Iterator[Finding]:
    shift = rows.mean_shift
    mean, largest = float(shift.mean()), float(shift.max())
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
            f"{text}: too far for a correction; take draws by evidence.importance_latents, "
            "or by NUTS.",
        )


def _within(gap: Gap, limit: Gap) -> bool:
    return gap.gain <= limit.gain or gap.distance <= limit.distance


def _digits(error: float) -> int:
    """Decimals of a number with this error."""
    return next((digits for digits in range(4) if error >= 10.0**-digits), 4)


def _off(missing: float) -> str:
    """How far a value is off that lacks so much."""
    return f"too {'low' if missing > 0 else 'high'} by {abs(missing):.2g}"


def _rows(which: Tensor) -> str:
    return f"{int(which.sum()):,} of {len(which):,} rows ({_places(which.nonzero().flatten())})"


def _be(which: Tensor) -> str:
    return "is" if int(which.sum()) == 1 else "are"


def _features(places: Sequence[int]) -> str:
    one = len(places) == 1
    named = f"feature{'' if one else 's'} ({_places(places)}) {'is' if one else 'are'}"
    return f"{len(places):,} {named}"


def _places(places: Any) -> str:
    shown = ", ".join(str(int(place)) for place in places[:MOST_LISTED])
    return shown + (", ..." if len(places) > MOST_LISTED else "")
