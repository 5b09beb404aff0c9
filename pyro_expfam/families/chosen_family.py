"""The family of a table: by its name, or by the values of the table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.families.base import Family
from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.continuous_bernoulli import ContinuousBernoulli
from pyro_expfam.families.exponential_law import Exponential
from pyro_expfam.families.gamma import Gamma
from pyro_expfam.families.gaussian import Gaussian
from pyro_expfam.families.geometric import Geometric
from pyro_expfam.families.log_normal import LogNormal
from pyro_expfam.families.negative_binomial import NegativeBinomial
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.tweedie import Tweedie
from pyro_expfam.families.zero_inflated import ZeroInflatedPoisson

NAMED: dict[str, Family] = {
    "bernoulli": Bernoulli(),
    "continuous_bernoulli": ContinuousBernoulli(),
    "exponential": Exponential(),
    "gamma": Gamma(),
    "gaussian": Gaussian(),
    "geometric": Geometric(),
    "log_normal": LogNormal(),
    "negative_binomial": NegativeBinomial(),
    "poisson": Poisson(),
    "tweedie": Tweedie(),
    "zero_inflated_poisson": ZeroInflatedPoisson(),
}
"""Families by name. What is left open in them is learnt from the table."""


def named_family(name: str) -> Family:
    """The family of a name, such as ``"negative_binomial"``.

    Raises:
        ValueError: if there is no family of this name.
    """
    if name not in NAMED:
        raise ValueError(
            f"family must be 'auto', a family such as pyro_expfam.families.Poisson(), or one of "
            f"{', '.join(map(repr, NAMED))}, got {name!r}"
        )
    return NAMED[name]


def choose_family(values: np.ndarray, names: Sequence[Any] | None = None) -> tuple[Family, str]:
    """A family for a table of numbers, and the reason for it.

    Bits are a Bernoulli table. Whole numbers that are not negative are counts: Poisson counts, or
    negative binomial counts with one size per column where columns vary more than a Poisson table
    would. All else is real, with Gaussian noise of one scale.

    Args:
        values: the table, ``(N, d)``, NaN where an entry is missing.
        names: the names of the columns, for errors; by default their numbers.

    Returns:
        The family, and a sentence that says why.

    Raises:
        ValueError: if there is no entry, or whole numbers may be no counts: columns have the
            numbers of the rows, or numbers beyond 100,000 times the mean of the others. All such
            columns are named.

    Example:
        >>> import numpy as np
        >>> from pyro_expfam.estimators import choose_family
        >>> choose_family(np.array([[0.0, 1.0], [1.0, np.nan]]))
        (Bernoulli(), 'all entries are 0 or 1')
    """
    there = values[~np.isnan(values)]
    if not there.size:
        raise ValueError("family='auto' needs an entry that is not missing, got none")
    is_whole = bool((there == np.round(there)).all())
    labels = range(values.shape[1]) if names is None else names
    with warnings.catch_warnings():
        # A column without an entry has no mean.
        warnings.simplefilter("ignore", RuntimeWarning)
        means, variances = np.nanmean(values, 0), np.nanvar(values, 0)
    return chosen_by(
        is_whole=is_whole,
        least=float(there.min()),
        largest=float(there.max()),
        means=means,
        variances=variances,
        row_numbers=_row_numbers(values) if is_whole else (),
        names=labels,
    )


def chosen_by(
    is_whole: bool,
    least: float,
    largest: float,
    means: np.ndarray,
    variances: np.ndarray,
    row_numbers: Sequence[int] = (),
    names: Sequence[Any] | None = None,
) -> tuple[Family, str]:
    """A family for a table with certain values, and the reason for it.

    Args:
        is_whole: whether all entries are whole numbers.
        least: the least entry.
        largest: the largest entry.
        means: the means of the columns, ``(d,)``.
        variances: the variances of the columns, ``(d,)``.
        row_numbers: the places of columns with the numbers of the rows.
        names: the names of the columns, for errors; by default their numbers.

    Raises:
        ValueError: if whole numbers from 0 are too large to be counts without a doubt.
    """
    if is_whole and least >= 0 and largest <= 1:
        return Bernoulli(), "all entries are 0 or 1"
    labels = range(len(means)) if names is None else names
    if is_whole:
        _check_counts(means if least >= 0 else np.zeros_like(means), row_numbers, labels)
    if is_whole and least >= 0:
        if _dispersion(means, variances) < LEAST_DISPERSION:
            return Gaussian(), (
                "entries are whole numbers from 0 that vary much less than counts, such as ratings "
                "or years"
            )
        if _dispersion(means, variances) > MOST_DISPERSION:
            return NegativeBinomial(), (
                "all entries are whole numbers from 0, and columns vary more than Poisson counts"
            )
        return Poisson(), "all entries are whole numbers from 0"
    if is_whole:
        return Gaussian(), "entries are whole numbers, some of them negative"
    return Gaussian(), "entries are real numbers"


LEAST_DISPERSION = 0.5
"""The smallest variance over the mean of the median column of Poisson counts.

Latents make counts vary more than their means, never less.
"""

MOST_DISPERSION = 20.0
"""The largest variance over the mean of the median column of Poisson counts.

Latents of an ordinary size make a Poisson table vary more than its means, by a factor of a few.
"""


LARGEST_MEAN = 1e5
"""Whole numbers whose columns have a larger mean are seldom counts."""

FARTHEST_MEAN = 1e5
"""A column whose mean is so many times the mean of the median column seldom holds counts."""


def _check_counts(means: np.ndarray, row_numbers: Sequence[int], names: Sequence[Any]) -> None:
    """Raises an error for whole numbers that may as well be names of rows or amounts.

    Columns that a user should look at are named all at once.
    """
    middle = float(np.nanmedian(means))
    if middle > LARGEST_MEAN and not row_numbers:
        raise ValueError(
            f"family='auto' takes whole numbers for counts, got a mean of {middle:.3g} in the "
            "median column: say family='negative_binomial' if they are counts, and 'gaussian', or "
            "above 0 'log_normal', if they are amounts, such as money"
        )
    found = [
        f"the numbers of the rows in column {names[k]!r}: leave it out, or make it the index"
        for k in row_numbers
    ]
    far = np.flatnonzero(means > FARTHEST_MEAN * max(middle, 1.0))
    found += [
        f"a mean of {means[k]:.3g} in column {names[int(k)]!r} and of {middle:.3g} in the median "
        "column: leave columns out that name the rows, or say family='negative_binomial' if all "
        "are counts"
        for k in far
        if k not in row_numbers
    ]
    if found:
        raise ValueError(f"family='auto' takes whole numbers for counts, got {'; '.join(found)}")


def _row_numbers(values: np.ndarray) -> list[int]:
    """The places of columns of consecutive whole numbers, each in one row."""
    if len(values) <= FEWEST_ROWS:
        return []
    spread = values.max(0) - values.min(0)
    return [
        int(column)
        for column in np.flatnonzero(spread == len(values) - 1)
        if (np.diff(np.sort(values[:, column])) == 1).all()
    ]


FEWEST_ROWS = 20
"""With fewer rows, consecutive counts may be chance."""


def _dispersion(means: np.ndarray, variances: np.ndarray) -> float:
    """The variance over the mean of the median column with counts."""
    found = variances[means > 0] / means[means > 0]
    return float(np.median(found)) if found.size else 0.0
