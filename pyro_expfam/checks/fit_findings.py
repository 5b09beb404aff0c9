"""The meaning of the comparison of a table with its replicates, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.discrepancies import has_one_scale
from pyro_expfam.checks.estimates import is_near_optimum
from pyro_expfam.checks.finding import NOTE, OK, PROBLEM, Finding
from pyro_expfam.checks.fit_to_data import Comparison, FitToData, Outliers
from pyro_expfam.checks.names import listing
from pyro_expfam.families import (
    Binomial,
    Family,
    Gamma,
    Gaussian,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Weibull,
    ZeroInflatedPoisson,
    ZeroTruncatedPoisson,
)

SIGNIFICANT = 4.0
"""A difference from the replicates is significant beyond this many of their standard deviations.

Among normal numbers with 30 replicates, one in 2,500 is beyond it by chance.
"""

LARGE_COVERAGE = 0.03
"""90% intervals are misleading if they miss their coverage by this much."""

LARGE_DISPERSION = 1.2
"""A ratio of variances beyond this is misleading: standard errors are then off by a tenth."""

LARGE_ZEROS = 0.02
"""The difference between observed and expected share of zeros that is large."""

LARGE_TAIL = 2.0
"""The excess surprise of the most surprising entries, in nats, that is large: their densities are
off by a factor of 7."""

LARGE_SHARED = 1.3
"""A large ratio of the largest eigenvalue of the residuals' correlations to the replicates'."""

ORDINARY_RATIO = (0.5, 1.5)
"""Rows and columns with a ratio outside this range, relative to the replicates, are named."""

FEW = 0.05
"""Up to this part of the rows counts as an exception."""

_COMPARE = "; pyro_expfam.compare_latent_dims helps to choose how many."

_HEAVIER: dict[str, tuple[type[Family], ...]] = {
    "NegativeBinomial()": (Poisson, ZeroTruncatedPoisson),
    "ZeroInflatedNegativeBinomial()": (ZeroInflatedPoisson,),
    "PoissonLogNormal()": (NegativeBinomial,),
    "NegativeBinomial() with the log totals of the rows as offset": (Multinomial,),
    "LogNormal()": (Gamma, Weibull),
}
"""The family with heavier tails for the entries of other ones."""

SANDWICH = (
    " Sandwich intervals of loadings and intercepts allow for it, and predictive intervals do not."
)


def fit_findings(check: BlockCheck) -> list[Finding]:
    """Whether the fitted model could have made this table, in words."""
    if check.fit_to_data is None:
        return [*_untrained(check), _not_compared(check)]
    found = [
        *_untrained(check),
        *_bits(check),
        *_by_kind(check, _coverage),
        *_by_kind(check, _dispersion),
        *_by_kind(check, _zeros),
        *_by_kind(check, _tail),
        *_shared(check),
        *_outliers(check),
    ]
    return [*found, *_intervals(check, found)]


def _by_kind(
    check: BlockCheck, findings: Callable[[BlockCheck], Iterator[Finding]]
) -> Iterator[Finding]:
    """Findings about the columns of each law of a mixed table, or about the whole table."""
    fit = _fit(check)
    if not fit.kinds:
        yield from findings(check)
    for kind in fit.kinds:
        of_kind = replace(
            check,
            family=kind.family,
            learns_family=any(name.startswith(f"{kind.name}_") for name in check.learnt),
            learns_scale=f"{kind.name}_scale" in check.learnt,
            fit_to_data=fit._replace(
                coverage=kind.coverage,
                dispersion=kind.dispersion,
                zeros=kind.zeros,
                tail=kind.tail,
                worst=kind.worst,
                kinds=(),
            ),
        )
        for found in findings(of_kind):
            yield found._replace(text=f"{kind.name}: {found.text}")


def _fit(check: BlockCheck) -> FitToData:
    assert check.fit_to_data is not None
    return check.fit_to_data


def _not_compared(check: BlockCheck) -> Finding:
    return Finding(
        NOTE,
        "entries",
        f"the table is not compared with tables of the model's own making, because "
        f"{check.why_not_compared}.",
    )


def _untrained(check: BlockCheck) -> Iterator[Finding]:
    nearest = check.estimates.nearest
    if nearest is not None and not is_near_optimum(nearest[0]):
        yield Finding(
            NOTE,
            "entries",
            "loading and intercept are far from an optimum for these rows. Train the guide on them "
            "first: what follows is about the model as it stands.",
        )


def _bits(check: BlockCheck) -> Iterator[Finding]:
    if _fit(check).are_bits:
        yield Finding(
            NOTE,
            "entries",
            "the law of a bit or a category follows from its mean: it has no dispersion, zeros or "
            "tails beside it. The checks are whether columns share more than the latents explain, "
            "and whether rows stand out.",
        )


def _coverage(check: BlockCheck) -> Iterator[Finding]:
    found = _fit(check).coverage
    if found is None:
        return
    held = (
        f"90% intervals of the fitted model hold {found.observed:.1%} of the entries, and "
        f"{found.expected:.1%} in tables of its own making"
    )
    if _fit(check).num_rows < check.num_rows:
        held += f" (by {_fit(check).num_rows:,} of the rows)"
    missing = found.observed - found.expected
    level = _level(found, abs(missing) >= LARGE_COVERAGE)
    advice = ""
    if level != OK:
        narrow = "too narrow" if missing < 0 else "too wide"
        advice = f" Predictions and intervals are {narrow}: the next lines give the causes."
    yield Finding(level, "coverage", f"{held}.{advice}")


def _dispersion(check: BlockCheck) -> Iterator[Finding]:
    found = _fit(check).dispersion
    if found is None:
        return
    ratio = found.observed / found.expected
    large = max(ratio, 1 / ratio) >= LARGE_DISPERSION
    level = _level(found, large)
    times = f"entries vary {ratio:.2f} times as much around their means as {_law(check)} does"
    if level == OK:
        yield Finding(OK, "dispersion", f"{times}.")
    else:
        cure = _cure_of_more(check, ratio) if ratio > 1 else _cure_of_less(check, ratio)
        yield Finding(level, "dispersion", f"{times}. {cure}")


def _cure_of_more(check: BlockCheck, ratio: float) -> str:
    # More latents explain what columns share, and nothing else.
    shares = any(found.level != OK for found in _shared(check))
    latents = "More latents, for what columns still share, come first. " if shares else ""
    if isinstance(check.family, Gaussian):
        return f"{latents}{_scale(check, ratio)}"
    if isinstance(check.family, Poisson):
        return (
            f"{latents}{_offset(check)}If entries still vary too much, take "
            "NegativeBinomial(), whose entries vary 1 + mean / size times as much; the block "
            f"learns its size. Or keep the model.{_sandwich(check)}"
        )
    if isinstance(check.family, Binomial):
        return (
            f"{latents}The trials of an entry are not independent, or their chances differ. The "
            f"package has no beta-binomial family yet.{_sandwich(check)}"
        )
    if isinstance(check.family, Multinomial):
        return (
            f"{latents}The counts of a row are not independent, or their chances differ. Take "
            "NegativeBinomial() with the log totals of the rows as offset, whose size the block "
            f"learns.{_sandwich(check)}"
        )
    if check.family.parameter_names:
        return f"{latents}{_learn(check)}{_sandwich(check)}"
    return (
        f"{latents}The variance of this family follows from its mean and cannot be learnt. Try "
        f'Gaussian("per column") on transformed entries, such as logits.{_sandwich(check)}'
    )


def _sandwich(check: BlockCheck) -> str:
    """What the sandwich covariance does about it, where a guide can have one."""
    return SANDWICH if _has_sandwich(check) else ""


def _has_sandwich(check: BlockCheck) -> bool:
    """Whether a guide of the coefficients can be made: of a single block with Gaussian priors."""
    found = check.estimates
    has_prior = not (found.has_flat_loading and found.has_flat_intercept)
    return check.is_whole_model and found.nearest is not None and has_prior


def _cure_of_less(check: BlockCheck, ratio: float) -> str:
    if isinstance(check.family, Gaussian):
        return _scale(check, ratio)
    if check.family.parameter_names and not isinstance(check.family, Binomial | Multinomial):
        return f"{_learn(check)}{_sandwich(check)}"
    known_total = (
        " Counts out of a known total vary less than Poisson counts: take Binomial(total)."
        if isinstance(check.family, Poisson)
        else ""
    )
    return (
        "Are entries averages, rounded or capped? Take fewer latents if the loading was fitted "
        f"elsewhere.{known_total}{_sandwich(check)}"
    )


def _learn(check: BlockCheck) -> str:
    """Advice to have the block learn what the family leaves out."""
    names, is_one = _words_of_parameters(check.family)
    if check.learns_family:
        return (
            f"Either the {names} {'was' if is_one else 'were'} learnt from other rows, or training "
            f"is not finished, or entries follow the family at no {names}: pyro_expfam.compare "
            "tries other families."
        )
    it = "it" if is_one else "them"
    return f"Learn the {names} per column: leave {it} out of {check.family_name}."


def _words_of_parameters(family: Family) -> tuple[str, bool]:
    """What a reader calls the parameters of a family, and whether it is one."""
    if isinstance(family, Ordinal):
        return "cut points", False
    names = [name.replace("_", " ") for name in family.parameter_names]
    return " and ".join(names), len(names) == 1


def _offset(check: BlockCheck) -> str:
    if check.has_offset:
        return ""
    return (
        "Give an offset per row if rows differ in effort or size, such as the log of their totals. "
    )


def _scale(check: BlockCheck, ratio: float) -> str:
    if check.learns_scale:
        return (
            "The scale was learnt from other rows, training is not finished, or loading_scale, "
            "which is in units of the noise, is too small for a table with little noise: take "
            "loading_scale=None."
        )
    change = f"{ratio**0.5:.2f} times as large as it is"
    return f"Learn the scale of the Gaussian family, or give it one that is {change}."


def _zeros(check: BlockCheck) -> Iterator[Finding]:
    found = _fit(check).zeros
    if found is None:
        return
    level = _level(found, abs(found.observed - found.expected) >= LARGE_ZEROS)
    shares = f"{found.observed:.1%} of the entries are zero, and {found.expected:.1%} are expected"
    cure = ""
    if level != OK and found.observed > found.expected:
        totals = (
            ", with the log totals of the rows as offset"
            if isinstance(check.family, Multinomial)
            else ", and for zeros of amounts Tweedie()"
        )
        cure = (
            " If dispersion is a problem too, cure it first. Zeros that mean 'not looked for' are "
            "missing entries: mask them. For other zeros of counts take ZeroInflatedPoisson() or "
            f"ZeroInflatedNegativeBinomial(){totals}."
        )
    elif level != OK:
        cure = (
            " If dispersion is a problem too, cure it first. If no entry can be zero, take "
            "ZeroTruncatedPoisson()."
        )
    yield Finding(level, "zeros", f"{shares}.{cure}")


def _tail(check: BlockCheck) -> Iterator[Finding]:
    found, worst = _fit(check).tail, _fit(check).worst
    if found is None:
        return
    excess = found.observed - found.expected
    level = _level(found, excess >= LARGE_TAIL) if excess > 0 else OK
    text = (
        f"the most surprising 0.2% of the entries are off by {found.observed:.1f} nats, and by "
        f"{found.expected:.1f} in tables of the model's own making"
    )
    if level == OK:
        yield Finding(OK, "tails", f"{text}.")
        return
    names = check.names
    yield Finding(
        level,
        "tails",
        f"{text}. The farthest is {worst.observed:.4g} in row {names.row(worst.row)}, column "
        f"{names.column(worst.column)}, where {worst.expected:.3g} is expected. Look at such "
        "entries first, and mask those that are errors. Give the rest weights below 1"
        f"{_heavier(check.family)}.",
    )


def _heavier(family: Family) -> str:
    """The family of the same kind of entries that has heavier tails, if there is one."""
    found = next((name for name, laws in _HEAVIER.items() if isinstance(family, laws)), None)
    return "" if found is None else f", or take a family with heavier tails: {found}"


def _shared(check: BlockCheck) -> Iterator[Finding]:
    found = _fit(check).shared
    if found is None:
        return
    ratio = found.observed / found.expected
    level = _level(found, ratio >= LARGE_SHARED) if ratio > 1 else OK
    if level == OK:
        yield Finding(OK, "structure", "residuals of the columns share nothing beyond chance.")
    else:
        yield Finding(
            level,
            "structure",
            f"residuals still share a direction, {ratio:.2f} times as strong as by chance: take "
            f"more latents{_COMPARE}",
        )


def _outliers(check: BlockCheck) -> Iterator[Finding]:
    found, names = _fit(check), check.names
    columns, rows = (_extreme(x) for x in (found.columns, found.rows))
    of_columns = _listed(columns, names.column)
    of_rows = _listed(rows, names.row)
    if _is_dispersed(check):
        # The whole table is dispersed then, and the number of outliers means nothing.
        worst = {"columns": of_columns, "rows": of_rows}
        listed = " and ".join(f"{kind} {places}" for kind, places in worst.items() if places)
        if listed:
            text = f"the worst are {listed}; x gives their dispersion relative to the model's."
            yield Finding(NOTE, "outliers", text)
        return
    if of_columns:
        count = len(columns.places)
        yield Finding(
            PROBLEM,
            "outliers",
            f"{count:,} of {check.num_features:,} columns {_stand(count)} out by dispersion: "
            f"{of_columns}. {_cure_of_columns(check)}",
        )
    if of_rows:
        count = len(rows.places)
        yield Finding(
            NOTE if count <= FEW * found.num_rows else PROBLEM,
            "outliers",
            f"{count:,} of {found.num_rows:,} rows {_stand(count)} out by deviance: {of_rows}. "
            "Are they of another kind, or wrong?",
        )


def _cure_of_columns(check: BlockCheck) -> str:
    if has_one_scale(check.family):
        return (
            "All columns have the same scale of the noise. Learn one for each with "
            'Gaussian("per column"), or standardise the columns.'
        )
    return "Look at them. Drop them, or give them a block with another family."


def _is_dispersed(check: BlockCheck) -> bool:
    return any(found.level == PROBLEM for found in _by_kind(check, _dispersion))


def _stand(count: int) -> str:
    return "stands" if count == 1 else "stand"


def _extreme(outliers: Outliers) -> Outliers:
    """The outliers with a ratio far from 1."""
    low, high = ORDINARY_RATIO
    pairs = zip(outliers.places, outliers.ratios, strict=True)
    kept = [(place, value) for place, value in pairs if not low < value < high]
    return Outliers([place for place, _ in kept], [value for _, value in kept])


def _listed(outliers: Outliers, name: Callable[[int], str]) -> str:
    pairs = zip(outliers.places, outliers.ratios, strict=True)
    return listing(f"{name(place)} (x{value:.2g})" for place, value in pairs)


def _intervals(check: BlockCheck, found: list[Finding]) -> Iterator[Finding]:
    """The consequences of a bad fit for intervals of the coefficients."""
    if any(finding.level == PROBLEM for finding in found):
        sandwich = (
            " The sandwich covariance, guide.coefficients.sandwich of a LaplaceGuide with "
            'globals="laplace", does not rely on the family.'
        )
        yield Finding(
            NOTE,
            "intervals",
            "standard errors and intervals of loadings and intercepts assume that the model is "
            "right. Here they are wrong, and if entries vary too much, they may be several times "
            f"too narrow.{sandwich if _has_sandwich(check) else ''}",
        )


def _level(found: Comparison, is_large: bool) -> str:
    if abs(found.score) < SIGNIFICANT:
        return OK
    return PROBLEM if is_large else NOTE


def _law(check: BlockCheck) -> str:
    scale = torch.as_tensor(getattr(check.family, "scale", math.nan)).detach()
    if scale.numel() > 1:
        return f"the {check.family_name} family of these scales"
    of_scale = "" if bool(scale.isnan().any()) else f" of scale {float(scale):.3g}"
    return f"the {check.family_name} family{of_scale}"
