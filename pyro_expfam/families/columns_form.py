"""The laws of a mixed table as a user writes them, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from pyro_expfam.families.base import Family

Groups = list[tuple[Family, list[int]]]
"""Families with the places of their columns."""

WANTED = (
    "columns must be a mapping of names to families, or pairs of places and a family such as "
    "(slice(0, 10), Poisson()) or ([12, 14], Gaussian())"
)


def laws_of_names(columns: Mapping[Any, Family]) -> Groups:
    """The laws of named columns, in the order of the names.

    Raises:
        TypeError: a law is no family.
        ValueError: there are no names, or two of them read the same.
    """
    if not columns:
        raise ValueError(f"{WANTED}, got no column")
    seen: dict[str, Any] = {}
    for name, family in columns.items():
        _check_family(family, f"column {name!r}")
        if str(name) in seen:
            raise ValueError(
                f"columns must have different names, got {seen[str(name)]!r} and {name!r}"
            )
        seen[str(name)] = name
    return [(family, [place]) for place, family in enumerate(columns.values())]


def laws_of_places(columns: Iterable[tuple[slice | Sequence[int], Family]]) -> Groups:
    """The laws of columns by their places, as pairs of a slice or a list, and a family.

    Raises:
        TypeError: an item is no such pair.
        ValueError: there are no columns, or places overlap, leave a gap or are negative.
    """
    if isinstance(columns, Family | str) or not isinstance(columns, Iterable):
        raise TypeError(f"{WANTED}, got {columns!r}")
    groups = [_pair(item) for item in columns]
    if not groups:
        raise ValueError(f"{WANTED}, got no column")
    _check_cover(groups)
    return groups


def _pair(item: Any) -> tuple[Family, list[int]]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(f"{WANTED}, got {item!r}")
    at, family = item
    if isinstance(at, Family):
        raise TypeError(
            f"{WANTED}, got {item!r}: the places come first; for a family with a number of "
            "columns take Columns.side_by_side"
        )
    numbers = _numbers(at)
    _check_family(family, f"columns {at!r}")
    return family, numbers


def _numbers(at: Any) -> list[int]:
    if isinstance(at, slice):
        bounds = (at.start, at.stop, at.step)
        if not all(x is None or isinstance(x, Integral) for x in bounds):
            raise TypeError(f"{WANTED}, got {at!r}")
        start, step = at.start or 0, 1 if at.step is None else at.step
        if at.stop is None or start < 0 or step < 1 or at.stop <= start:
            raise ValueError(
                "a slice of columns must have a start of at least 0 and a stop above it, got "
                f"{at!r}"
            )
        return list(range(int(start), int(at.stop), int(step)))
    is_sequence = hasattr(at, "__iter__") and not isinstance(at, str | Mapping)
    numbers = list(at) if is_sequence else []
    if not is_sequence or not all(
        isinstance(x, Integral) and not isinstance(x, bool) for x in numbers
    ):
        raise TypeError(f"{WANTED}, got the places {at!r}")
    if not numbers or min(numbers) < 0:
        raise ValueError(f"places of columns must be numbers of at least 0, got {at!r}")
    return [int(x) for x in numbers]


def _check_cover(groups: Groups) -> None:
    """Raises a ValueError unless every column has one law."""
    owner: dict[int, Family] = {}
    for family, numbers in groups:
        for number in numbers:
            if number in owner:
                raise ValueError(
                    f"columns must have one family each, got {owner[number]} and {family} for "
                    f"column {number}"
                )
            owner[number] = family
    last = max(owner)
    missing = [number for number in range(last) if number not in owner]
    if missing:
        listed = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"columns must have a family each, from 0 to {last}, got none for column"
            f"{'s' if len(missing) > 1 else ''} {listed}"
        )


def _check_family(family: Any, where: str) -> None:
    if not isinstance(family, Family):
        raise TypeError(
            f"every column must have a family such as Poisson(), got {family!r} for {where}"
        )
    if family.num_columns is not None:
        raise TypeError(
            f"every column must have the family of one column, got {family} for {where}: write "
            "the laws of all columns in one Columns"
        )
