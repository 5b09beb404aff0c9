"""The columns of a mixed table by law, and in the order of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.families.base import Family
from pyro_expfam.families.kinds import At, Kind


def merged(groups: list[tuple[Family, list[int]]]) -> list[tuple[Family, list[int]]]:
    """The same laws, with the columns of equal families together and in order."""
    found: list[tuple[Family, list[int]]] = []
    by_family: dict[Family, list[int]] = {}
    for family, columns in groups:
        if any(value.dim() > 0 for value in family.parameters.values()):
            # Numbers by column stay with their columns.
            found.append((family, columns))
        elif family in by_family:
            by_family[family].extend(columns)
        else:
            by_family[family] = list(columns)
            found.append((family, by_family[family]))
    for columns in by_family.values():
        columns.sort()
    return found


def names_of_kinds(groups: list[tuple[Family, list[int]]]) -> list[str]:
    """A name for each law, with a number where several would have the same."""
    found: list[str] = []
    for family, _ in groups:
        name = family.kind
        count = sum(re.fullmatch(rf"{name}(_\d+)?", other) is not None for other in found)
        found.append(f"{name}_{count + 1}" if count else name)
    return found


def of_part(parameters: Mapping[str, Tensor], part: Kind, names: Iterable[str]) -> dict[str, Any]:
    """The parameters of one law out of the parameters of all, by their own names."""
    return {
        name: parameters[f"{part.name}_{name}"]
        for name in names
        if f"{part.name}_{name}" in parameters
    }


def as_places(numbers: list[int]) -> At:
    """Places as a slice if they follow one another."""
    first = numbers[0]
    if numbers == list(range(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return torch.tensor(numbers)


def order_of(of_parts: list[list[int]]) -> Tensor | None:
    """Where each place of the table is among the places of all parts; None if where it was."""
    numbers = [k for part in of_parts for k in part]
    return None if numbers == list(range(len(numbers))) else torch.tensor(numbers).argsort()


def joined(entries: Sequence[Tensor], order: Tensor | None) -> Tensor:
    """Entries of several laws side by side, in an order of :func:`order_of`."""
    if len(entries) == 1:
        found = entries[0]
    else:
        # Of several sets of parameters side by side, a law that has none has one set of values.
        batch = max((x.shape[:-1] for x in entries), key=len)
        found = torch.cat([x.expand(*batch, -1) for x in entries], -1)
    return found if order is None else found.index_select(-1, order.to(found.device))


def described_places(at: At) -> str:
    """Places as a reader writes them."""
    return f"slice({at.start}, {at.stop})" if isinstance(at, slice) else str(at.tolist())
