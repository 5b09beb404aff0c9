"""Labels along dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import Group, Variable
from pyro_expfam.table_categories import Categories, level_names


class Labels:
    """The labels along each dimension.

    The user's labels come first, then the names of a data frame, then the labels of the rows that
    they are a part of, then the indices of a plate, and then positions.

    Args:
        coords: the user's labels, by name of the dimension.
        frames: the names in data frames, by name of the dimension.
        indices: the indices of plates, by name of the dimension.
        known: names of further dimensions that the user may label, even if they are not used.
        levels: dimensions of levels of categories: the dimension of their columns, and the number
            of levels of each column. They are labelled by column and level; a column of numbers
            has one, and is labelled by its name.
        categories: the names of the levels of each column, by the dimension of the columns.
        parts: for a dimension of some of the rows of another one, the name of the other, which of
            its rows they are, and their number.
        kinds: the kind of each column of a mixed table, by the dimension of the columns, with the
            name of the coordinate that holds the kinds.
    """

    def __init__(
        self,
        coords: Mapping[str, Sequence[Any]],
        frames: Mapping[str, np.ndarray],
        indices: Mapping[str, np.ndarray],
        known: Iterable[str] = (),
        levels: Mapping[str, tuple[str, Sequence[int]]] | None = None,
        categories: Mapping[str, Categories] | None = None,
        parts: Mapping[str, tuple[str, np.ndarray, int]] | None = None,
        kinds: Mapping[str, tuple[str, Sequence[str]]] | None = None,
    ) -> None:
        self._coords = {name: np.asarray(values) for name, values in coords.items()}
        self._frames, self._indices = frames, indices
        self._used: set[str] = set(known)
        self._levels, self._categories = dict(levels or {}), dict(categories or {})
        self._parts = dict(parts or {})
        self._kinds = dict(kinds or {})

    def along(self, dim: str, size: int) -> np.ndarray:
        """The labels along a dimension.

        Raises:
            ValueError: if the user did not give one label per position.
        """
        self._used.add(dim)
        if dim in self._coords:
            labels = self._coords[dim]
            if labels.shape != (size,):
                raise ValueError(f"coords[{dim!r}] must be {size} labels, got {labels.shape}")
            return labels
        if dim in self._levels:
            columns, counts = self._levels[dim]
            names = list(self.along(columns, len(counts)))
            of_levels = level_names(names, counts, self._categories.get(columns))
            return np.array(of_levels, dtype=np.str_)
        if dim in self._frames and len(self._frames[dim]) == size:
            return self._frames[dim]
        if dim in self._parts:
            whole, places, whole_size = self._parts[dim]
            return self.along(whole, whole_size)[places]
        if dim in self._indices and len(self._indices[dim]) == size:
            return self._indices[dim]
        return np.arange(size)

    def group(
        self, variables: Mapping[str, Variable], coords: Mapping[str, Variable] | None = None
    ) -> Group:
        """The variables and further coordinates as a group with labels along all dimensions."""
        coords = dict(coords or {})
        sizes = {
            dim: size
            for dims, values in (*variables.values(), *coords.values())
            for dim, size in zip(dims, values.shape, strict=True)
        }
        labels = {dim: Variable((dim,), self.along(dim, size)) for dim, size in sizes.items()}
        kinds = {
            name: Variable((dim,), np.array(of_columns, dtype=np.str_))
            for dim, (name, of_columns) in self._kinds.items()
            if dim in sizes
        }
        return Group(dict(variables), {**coords, **labels, **kinds})

    def check_all_used(self) -> None:
        """Raises an error if the user labels a dimension that does not exist."""
        if unknown := sorted(self._coords.keys() - self._used):
            raise ValueError(
                f"coords must be of dimensions among {sorted(self._used)}, got {unknown}"
            )
