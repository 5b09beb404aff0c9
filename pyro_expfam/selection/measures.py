"""What the log densities of a family are with respect to, and which of them compare."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_expfam.families import Family
from pyro_expfam.families.kinds import places

PROBABILITIES, DENSITIES = "probabilities of single values", "densities of real numbers"


def check_comparable(families: Mapping[str, Family], y: Tensor) -> None:
    """Refuses families whose log densities of a table are of different kinds.

    A probability of a count and a density of a real number have different units: the density is
    multiplied by 1,000 where the table is in thousands.

    Args:
        families: the families by name.
        y: the table, ``(N, d)``, with NaN for missing entries.

    Raises:
        ValueError: if two families differ in kind for a column; it names both.
    """
    first, *others = families
    kinds = list(_kinds(families[first], y))
    for other in others:
        for column, (kind, wanted) in enumerate(
            zip(_kinds(families[other], y), kinds, strict=True)
        ):
            if kind != wanted:
                raise ValueError(
                    f"families must have log densities of one kind, got {wanted} from {first!r} "
                    f"and {kind} from {other!r} for column {column}: the two are in different "
                    "units. Compare counts with counts and real numbers with real numbers, or see "
                    "with check whether each fits"
                )


def _kinds(family: Family, y: Tensor) -> list[str]:
    """The kind of the log densities of every column."""
    kinds = [""] * y.shape[1]
    for part in family.kinds(y.shape[1]):
        for column in places(part.columns, y.shape[1]):
            atoms = [x for x in part.family.atoms if bool((y[:, column] == x).any())]
            if part.family.support.is_discrete:
                kinds[column] = PROBABILITIES
            elif atoms:
                named = ", ".join(f"{x:g}" for x in atoms)
                kinds[column] = f"{DENSITIES} with a probability of {named}"
            else:
                kinds[column] = DENSITIES
    return kinds


def is_discrete(family: Family) -> bool:
    """Whether all observations have probabilities, so that a log evidence is at most zero."""
    return all(kind.family.support.is_discrete for kind in family.kinds(family.num_columns or 1))


def are_whole_numbers(y: Tensor) -> bool:
    """Whether a table holds whole numbers alone."""
    known = y[y.isfinite()]
    return bool((known == known.round()).all())
