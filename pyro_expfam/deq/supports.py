"""Supports of families in words."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.beta import open_unit_interval

COUNTS, POSITIVE_COUNTS, BITS, SHARES, INNER_SHARES, POSITIVE, NONNEGATIVE = (
    constraints.nonnegative_integer,
    constraints.positive_integer,
    constraints.boolean,
    constraints.unit_interval,
    open_unit_interval,
    constraints.positive,
    constraints.nonnegative,
)


def describe(support: constraints.Constraint) -> str:
    """The observations of a family in words."""
    words = {
        COUNTS: "counts 0, 1, 2, …",
        POSITIVE_COUNTS: "counts 1, 2, 3, …",
        BITS: "0 or 1",
        SHARES: "numbers between 0 and 1",
        INNER_SHARES: "numbers above 0 and below 1",
        POSITIVE: "positive numbers",
        NONNEGATIVE: "zero or positive numbers",
        constraints.real: "real numbers",
    }
    if support in words:
        return words[support]
    if type(support) is type(constraints.interval(0, 1)):
        return f"numbers from {support.lower_bound:g} to {support.upper_bound:g}"
    if type(support) is constraints.greater_than:
        bound = support.lower_bound
        return f"numbers above {f'{bound:g}' if isinstance(bound, float) else 'the scale'}"
    if type(support) is constraints.integer_interval:
        return f"whole numbers {support.lower_bound} to {support.upper_bound}"
    return str(support)


def hint(support: constraints.Constraint, y: Tensor) -> str:
    """What may be wrong with a table that is not in a support, with its punctuation, or nothing."""
    low, high = float(y.min()), float(y.max())
    are_whole = bool((y == y.round()).all())
    if support is SHARES and low >= 0 and high <= 100:
        return " (divide percentages by 100)"
    if support is INNER_SHARES and low >= 0 and high <= 1:
        return " (mask zeros and ones, or move all of n rows inside by (y * (n - 1) + 0.5) / n)"
    if support is INNER_SHARES and low >= 0 and high <= 100:
        return " (divide percentages by 100)"
    if support is POSITIVE_COUNTS and are_whole and low == 0:
        return " (mask the zeros, or take a family of counts with zeros, such as Poisson)"
    if support is POSITIVE and low == 0:
        return (
            " (mask the zeros, or replace zeros that were rounded down by half of the smallest "
            "positive value)"
        )
    if support is BITS and are_whole and len(y.unique()) == 2:
        return f" (recode {low:g} and {high:g} to 0 and 1)"
    if isinstance(support, constraints.integer_interval) and are_whole and low >= 0:
        return _hint_of_totals(support, y)
    return ""


def _hint_of_totals(support: constraints.integer_interval, y: Tensor) -> str:
    """What may be wrong with counts above their total."""
    total, low, high = support.upper_bound, float(y.min()), float(y.max())
    largest = float(total.max()) if isinstance(total, Tensor) else float(total)
    if not isinstance(total, Tensor) and low == 1 and high == largest + 1:
        return f" (recode answers 1 to {high:g} to 0 to {largest:g})"
    return ""
