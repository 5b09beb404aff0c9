"""Learnt spreads that estimate none, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.finding import NOTE, PROBLEM, Finding
from pyro_expfam.checks.learnt_spreads import LearntSpread
from pyro_expfam.checks.names import listing


def spread_findings(check: BlockCheck) -> list[Finding]:
    """Columns whose learnt scale, shape, precision, dispersion or size has run to its bound."""
    return [found for spread in check.spreads for found in _of_spread(check, spread)]


def _of_spread(check: BlockCheck, spread: LearntSpread) -> Iterator[Finding]:
    copied = {k: v for k, v in spread.copied.items() if k not in spread.explained}
    if copied:
        yield Finding(PROBLEM, "spread", _of_copied(check, spread, copied))
    if spread.explained:
        yield Finding(PROBLEM, "spread", _of_explained(check, spread))
    if spread.poisson:
        yield Finding(NOTE, "spread", _of_poisson(check, spread))


def _of_copied(check: BlockCheck, spread: LearntSpread, copied: Mapping[int, float]) -> str:
    one = len(copied) == 1
    return (
        f"{_columns(check, copied)} {'is' if one else 'are'} copied by a latent: what rows know of "
        f"{'it is from its' if one else 'each is from its'} own entries, and the {spread.name} "
        f"({_values(copied)}) says nothing of noise. It goes on as far as priors let it, the other "
        f"columns lose the latent, and intervals are too narrow. Take {_prior_of(spread)}, a "
        f"smaller loading_scale, one {spread.name} for all columns, or another number of latents. "
        f"Or leave the {'column' if one else 'columns'} out, as "
        f"{'a covariate' if one else 'covariates'}."
    )


def _prior_of(spread: LearntSpread) -> str:
    """A prior that holds the parameters of columns together."""
    if spread.prior_scale is None:
        return "parameter_scale=1"
    return f"a parameter_scale below {spread.prior_scale:g}"


def _of_explained(check: BlockCheck, spread: LearntSpread) -> str:
    found = spread.explained
    shared = "" if spread.is_shared else f"one {spread.name} for all columns, "
    return (
        f"latents explain {_columns(check, found)} exactly: the {spread.name} "
        f"({_values(found)}) has run as far as numbers go, and the density has no bound. Take "
        f"fewer latents, {shared}a known {spread.name}, or leave out columns that follow from "
        "others."
    )


def _of_poisson(check: BlockCheck, spread: LearntSpread) -> str:
    found = spread.poisson
    return (
        f"the {spread.name} of {_columns(check, found)} has run to its end ({_values(found)}): "
        "the counts vary as Poisson counts do. This does no harm, and a Poisson law says the same."
    )


def _columns(check: BlockCheck, found: Mapping[int, float]) -> str:
    listed = listing(check.names.column(place) for place in found)
    return f"{len(found):,} of {check.num_features:,} columns ({listed})"


def _values(found: Mapping[int, float]) -> str:
    return listing(dict.fromkeys(f"{value:.2g}" for value in found.values()))
