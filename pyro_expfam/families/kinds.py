"""The columns of a table that have one law, and their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from pyro_expfam.families.base import Family

At = slice | Tensor
"""Places in the last dimension: adjacent ones, or any, ``(n,)``."""


class Kind(NamedTuple):
    """The columns of a table that have one law.

    Attributes:
        family: the law.
        name: the name of this kind of column, such as ``"poisson"``.
        columns: the places of the columns.
        predictors: the places of their linear predictors.
        width: the number of columns.
    """

    family: Family
    name: str
    columns: At
    predictors: At
    width: int

    @property
    def num_predictors(self) -> int:
        """The number of linear predictors of the columns."""
        return self.family.num_predictors(self.width)


def take(entries: Tensor, at: At) -> Tensor:
    """Some places of the last dimension."""
    if isinstance(at, slice):
        return entries[..., at]
    return entries.index_select(-1, at.to(entries.device))


def places(at: At, size: int) -> list[int]:
    """The places as numbers, in a dimension of some size."""
    return list(range(size)[at]) if isinstance(at, slice) else at.tolist()
