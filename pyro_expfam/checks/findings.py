"""What the numbers of a check mean, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.estimates import Estimates, Gap
from pyro_expfam.checks.rows import Rows

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"

AT_GAIN, AT_DISTANCE = 1e-3, 0.1
"""Less than either is nothing: a step of training changes no conclusion."""

NEAR_GAIN = 0.01
"""Up to this gain, in nats a row, there is little left to learn from these rows."""

NEW_PART = 0.25
"""Rows that did not train the model may be up to this part of those that did."""

ORDINARY_NORMAL = 3.09
"""One normal number in a thousand is larger."""

UNUSED_INFORMATION = 0.05
"""Latents on which rows say less than this part of the prior are not used."""

RUN_AWAY = 30.0
"""Natural parameters with a standard deviation beyond this leave a discrete observation no doubt:
its variance is :math:`e^{-30}`. No table tells such loadings from even larger ones."""

ORDINARY_SPREAD = (0.5, 2.0)
"""Latents with a mean square in this range, relative to the prior variance, fit their prior."""

NO_ERROR, SMALL_ERROR, LARGE_ERROR = 1e-5, 0.02, 0.2
"""Errors of the log evidence in nats a row: the last two are factors of 1.02 and 1.22."""

SMALL_SHIFT, LARGE_SHIFT = 0.1, 0.5
"""Distances of posterior mean and root in posterior standard deviations."""

LARGE_LOADING = (
    "the loading is too large for this prior, as joint MAP makes it. Natural parameters of rows "
    "are then thought too uncertain, and new rows are explained less well than after training with "
    "pyro_expfam.LaplaceEvidence."
)
SMALL_LOADING = (
    "the loading is too small for this prior, and natural parameters of rows are thought too "
    "certain."
)

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
    if bool(_run_away(found).any()):
        yield Finding(
            PROBLEM,
            "training",
            "the loading has run away: natural parameters have a standard deviation of "
            f"{float(found.reach.max()):.2g}, where observations vary no more and objectives are "
            "flat. How far an optimum is cannot be told there. Give the block a loading_scale, "
            "train with pyro_expfam.LaplaceEvidence to first order, or take fewer latents.",
        )
        return
    gap, objective = nearest
    step = (
        f"the next step of scoring would move them by {gap.distance:.2g} sd, and gain "
        f"{gap.gain:.2g} nats a row."
    )
    unsolved = _basis(check.rows)
    if _is_at(gap):
        yield Finding(
            NOTE if unsolved else OK,
            "training",
            f"loading and intercept are at an optimum of the {objective}: {step}{unsolved}",
        )
    elif _is_near(gap):
        advice = f" That is to be expected if {_excuse(check)}; otherwise train longer."
        yield Finding(
            NOTE,
            "training",
            f"loading and intercept are near an optimum of the {objective}, not at it: {step}"
            f"{unsolved or advice}",
        )
    else:
        yield Finding(
            PROBLEM,
            "training",
            f"loading and intercept are far from any optimum: {step}"
            f"{unsolved or _reason_of_distance(check)}",
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
    return nearest is None or _is_near(nearest[0])


def _basis(rows: Rows) -> str:
    """What to say of a step that rests on rows that are not solved."""
    failed = ~rows.converged
    if not bool(failed.any()):
        return ""
    return (
        f" That rests on {_rows(failed)} that {_be(failed)} not solved, and means little before "
        "they are."
    )


def _reason_of_distance(check: BlockCheck) -> str:
    if not check.is_whole_model:
        return " The guide is not trained by this table alone."
    return " The guide is not trained, or on too few rows or rows unlike these."


def _run_away(found: Estimates) -> Tensor:
    """The directions in which the loading is so large that rows say nothing any more."""
    return (found.information < UNUSED_INFORMATION) & (found.reach > RUN_AWAY)


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
            "value means nothing. Drop them, or keep the block's default intercept_scale.",
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
    silent = found.information < UNUSED_INFORMATION
    run_away = _run_away(found)
    unused = int((silent & ~run_away).sum())
    if bool(run_away.any()):
        lost = int(run_away.sum())
        yield Finding(
            PROBLEM,
            "latents",
            f"{lost} of {size} {'has' if lost == 1 else 'have'} run away with the loading: rows "
            "say nothing of latents under which all observations are certain.",
        )
    if unused:
        level = PROBLEM if unused == size else NOTE
        yield Finding(
            level,
            "latents",
            f"{unused} of {size} {'is' if unused == 1 else 'are'} not used: the loading is too "
            "small there for rows to say anything about it.",
        )
    low, high = ORDINARY_SPREAD
    if (
        not bool(silent.all() | run_away.any())
        and _is_trained(check)
        and not low <= found.spread <= high
    ):
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


def _is_at(gap: Gap) -> bool:
    return gap.gain <= AT_GAIN or gap.distance <= AT_DISTANCE


def _is_near(gap: Gap) -> bool:
    """Whether rows that did not train the model, but follow it, may be so far away.

    For them the square of the distance is about chi-squared over its degrees of freedom, and larger
    by as many rows as there are for one that trained the model, since it is uncertain itself.
    """
    limit = math.sqrt((1 + NEW_PART) * _ordinary_mean_square(gap.size))
    return gap.gain <= NEAR_GAIN or gap.distance <= limit


def _ordinary_mean_square(size: int) -> float:
    """The mean of squares of so many normal numbers that one in a thousand exceeds.

    Source: Wilson and Hilferty, *The distribution of chi-square* (1931).
    """
    variance = 2 / (9 * size)
    return float((1 - variance + ORDINARY_NORMAL * math.sqrt(variance)) ** 3)


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
