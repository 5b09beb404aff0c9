"""Families for the columns of a data frame, by their dtypes and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pyro_expfam.families.base import Family
from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.beta import Beta
from pyro_expfam.families.categorical import Categorical
from pyro_expfam.families.gaussian import Gaussian
from pyro_expfam.families.negative_binomial import NegativeBinomial
from pyro_expfam.families.ordinal import Ordinal
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.table_categories import FEWEST_IDS, said_once, why_no_numbers

MOST_POISSON = 3.0
"""The largest variance over the mean of Poisson counts, whose means differ by row."""

LEAST_POISSON = 1 / 3
"""The least variance over the mean of Poisson counts; of years and heights it is less."""

LARGEST_COUNT = 1000
"""Whole numbers whose median is larger may as well be money, amounts in small units or names."""

LARGEST_RATING = 10
"""Whole numbers from 1 to so many are answers rather than counts, which begin at 0."""

LARGEST_YEAR = 10_000
"""Years and other measures that vary less than counts are smaller; large numbers are names."""

NEAR_ENDS = 0.05
"""Shares of a whole come so close to 0 and to 1."""

FEWEST_HIGH = 0.1
"""At least this part of a column of shares lies above 1/2, and as much below."""

WIDE = 100.0
"""Positive numbers whose largest is so many times their median are seldom normal."""


class Choice(NamedTuple):
    """The family of a column.

    Attributes:
        family: the family.
        reason: why, in a few words.
    """

    family: Family
    reason: str


class _Unclear(ValueError):
    """A column whose family cannot be told, with what to do about it."""


def choices_of(frame: Any, known: Mapping[Any, Family]) -> dict[Any, Choice]:
    """A family for each column of a data frame of pandas, by its name.

    Args:
        frame: the frame.
        known: families of some of the columns by name.

    Raises:
        TypeError: it is no data frame of pandas.
        ValueError: it has no columns, or the family of a column cannot be told; the message names
            all such columns, with what to do about each.
    """
    if not (hasattr(frame, "iloc") and hasattr(frame, "columns")):
        raise TypeError(
            f"frame must be a data frame of pandas, got {type(frame).__name__}: give the families "
            "by name, as in Columns({'age': Gaussian()})"
        )
    names = list(frame.columns)
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated or not names:
        got = f"the repeated {', '.join(repeated)}" if repeated else "none"
        raise ValueError(f"frame must have columns with different names, got {got}")
    strange = [name for name in known if name not in names]
    if strange:
        raise ValueError(f"laws must be of columns of the frame, got {strange}")
    found: dict[Any, Choice] = {}
    unclear: dict[str, list[Any]] = {}
    for place, name in enumerate(names):
        if name in known:
            found[name] = Choice(known[name], "as given")
            continue
        try:
            found[name] = _choice(frame.iloc[:, place])
        except _Unclear as problem:
            unclear.setdefault(str(problem), []).append(name)
    if unclear:
        raise ValueError(
            f"frame must have columns whose families can be told; {said_once(unclear)}. Give "
            "families by name, as in Columns.from_frame(frame, {'age': Gaussian()})"
        )
    return found


def _choice(column: Any) -> Choice:
    dtype = column.dtype
    if hasattr(dtype, "categories") and hasattr(dtype, "ordered"):
        return _of_categories(column)
    why = why_no_numbers(column)
    if why is not None:
        raise _Unclear(why)
    values = _numbers(column)
    there = values[~np.isnan(values)]
    if not len(there):
        raise _Unclear("has no entry: drop it")
    if (there == there[0]).all():
        raise _Unclear(f"is {there[0]:g} in all rows: drop it, since it says nothing")
    if dtype.kind == "b":
        return Choice(Bernoulli(), "true or false")
    return _of_numbers(there)


def _of_categories(column: Any) -> Choice:
    categories = column.dtype.categories
    count, is_ordered = len(categories), bool(column.dtype.ordered)
    used = column.dropna().nunique()
    if used < 2:
        raise _Unclear(f"has {used} of its categories in all rows: drop it")
    if np.asarray(categories).dtype.kind in "biuf" and not is_ordered:
        raise _Unclear(
            "has numbers for categories: order them, as by column.cat.as_ordered(), name them, as "
            "by column.cat.rename_categories(str), or take the numbers by column.astype(float)"
        )
    if not is_ordered and used == len(column) and used > FEWEST_IDS:
        raise _Unclear("has another category in each row, as a name of the row: drop it")
    if count == 2:
        return Choice(Bernoulli(), f"two categories: whether it is {str(categories[1])!r}")
    if is_ordered:
        return Choice(Ordinal(count), f"{count} categories in order")
    return Choice(Categorical(count), f"{count} categories without an order")


def _of_numbers(there: np.ndarray) -> Choice:
    for rule in (_bits, _counts, _shares):
        found = rule(there)
        if found is not None:
            return found
    is_whole = bool((there == np.round(there)).all())
    reason = "whole numbers, some of them negative" if is_whole else "real numbers"
    hint = ""
    if there.min() > 0 and there.max() > WIDE * np.median(there):
        hint = f"; all above 0, and the largest {WIDE:g} medians or more: see LogNormal()"
    return Choice(Gaussian(), f"{reason}, with a scale of their own{hint}")


def _bits(there: np.ndarray) -> Choice | None:
    return Choice(Bernoulli(), "all are 0 or 1") if np.isin(there, (0, 1)).all() else None


def _counts(there: np.ndarray) -> Choice | None:
    if there.min() < 0 or not (there == np.round(there)).all():
        return None
    if len(there) > FEWEST_IDS and (np.diff(np.sort(there)) == 1).all():
        raise _Unclear("has the numbers of its rows: drop it, or make it the index")
    if there.min() >= 1 and there.max() <= LARGEST_RATING:
        return Choice(
            Gaussian(),
            f"whole numbers from {there.min():g} to {there.max():g}, as ratings, with a scale of "
            "their own; ordered categories of them are Ordinal",
        )
    ratio = float(there.var() / there.mean())
    _check_counts(there, ratio)
    if ratio < LEAST_POISSON:
        return Choice(
            Gaussian(),
            f"whole numbers that vary less than counts (variance / mean {ratio:.2g}), with a scale "
            "of their own",
        )
    if ratio > MOST_POISSON:
        return Choice(
            NegativeBinomial(), f"whole numbers from 0, dispersed (variance / mean {ratio:.2g})"
        )
    return Choice(Poisson(), f"whole numbers from 0 (variance / mean {ratio:.2g})")


def _check_counts(there: np.ndarray, ratio: float) -> None:
    """Raises an error for whole numbers from 0 that may be names of rows or amounts."""
    is_name = len(there) > FEWEST_IDS and len(np.unique(there)) == len(there)
    is_year = ratio < LEAST_POISSON and there.max() < LARGEST_YEAR
    if is_name:
        what = "has another whole number in each row"
    elif np.median(there) > LARGEST_COUNT and not is_year:
        what = "has large whole numbers"
    else:
        return
    raise _Unclear(
        f"{what}, from {there.min():.12g} to {there.max():.12g}: drop it if they are names of the "
        "rows, give NegativeBinomial() if they are counts, and Gaussian(), or above 0 LogNormal(), "
        "if they are amounts, such as money"
    )


def _shares(there: np.ndarray) -> Choice | None:
    low, high = there.min(), there.max()
    if low < 0 or high > 1:
        return None
    part = (there > 0.5).mean()
    reaches_both_ends = low <= NEAR_ENDS and high >= 1 - NEAR_ENDS
    if low > 0 and high < 1 and reaches_both_ends and FEWEST_HIGH <= part <= 1 - FEWEST_HIGH:
        return Choice(
            Beta(), f"shares, from {low:.2g} to {high:.2g}, with a precision of their own"
        )
    if low > 0 and high < 1:
        shares = "Beta() if they are shares of a whole"
    else:
        shares = "ContinuousBernoulli() if they are shares of a whole"
    amounts = "Gaussian(), or LogNormal()," if low > 0 else "Gaussian()"
    raise _Unclear(
        f"has numbers from {low:.2g} to {high:.2g}: give {shares}, and {amounts} if they are "
        "amounts"
    )


def _numbers(column: Any) -> np.ndarray:
    """The values of a column of numbers, NaN where one is missing."""
    found: np.ndarray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return found


def described(choices: dict[Any, Choice]) -> str:
    """The families of columns with their reasons, a line each."""
    rows = [(str(name), str(family), reason) for name, (family, reason) in choices.items()]
    widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)
