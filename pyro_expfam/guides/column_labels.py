"""The labels and categories of the columns that a guide was trained on, and frames against them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pyro_expfam.table_categories import Categories, categories_of
from pyro_expfam.table_labels import axis_of

MOST_NAMED = 5
"""The most labels that an error lists."""


class ColumnLabels:
    """The labels of the columns of each block's table, by the site of the block's latents.

    A guide takes columns by position. A frame says which columns it has, and is refused if its
    labels differ from the labels of the frame that the guide was trained on. A tensor or an array
    has no labels. Labels ``0, 1, ...`` in their order are positions and count as none. The same
    holds for the named categories of columns, which say what the number of a level means.
    """

    def __init__(self) -> None:
        self._labels: dict[str, list[Any]] = {}
        self._categories: dict[str, Categories] = {}

    def remember(self, site: str, y: Any) -> None:
        """Keeps the labels of a table in place of those that were known before."""
        for known, found in ((self._labels, _labels_of(y)), (self._categories, categories_of(y))):
            if found is None:
                known.pop(site, None)
            else:
                known[site] = found

    def of(self, site: str) -> list[Any] | None:
        """The labels of the columns of a block's table, or None if they are positions."""
        known = self._labels.get(site)
        return None if known is None or _are_positions(known) else known

    def categories_of(self, site: str) -> Categories | None:
        """The named categories of the columns of a block's table; None without any."""
        return self._categories.get(site)

    def to_plain(self) -> dict[str, Any]:
        """Labels and categories for JSON, without those that are no texts and numbers."""
        return {
            "labels": {site: x for site, x in self._labels.items() if _is_plain(x)},
            "categories": dict(self._categories),
        }

    def set_plain(self, plain: dict[str, Any]) -> None:
        """Takes back what :meth:`to_plain` has given."""
        self._labels, self._categories = plain["labels"], plain["categories"]

    def remember_first(self, site: str, y: Any) -> None:
        """Keeps the labels of a table if none are known."""
        if site not in self._labels and site not in self._categories:
            self.remember(site, y)

    def check(self, site: str, y: Any, name: str = "y") -> None:
        """An error if labels or categories are not the ones that the guide was trained on.

        Args:
            site: the key of the table.
            y: the table.
            name: the name of the argument, for errors.

        Raises:
            ValueError: if a frame has the columns in another order, or has others, or a column has
                other categories.
        """
        self._check_labels(site, y, name)
        self._check_categories(site, y)

    def _check_categories(self, site: str, y: Any) -> None:
        known = self._categories.get(site)
        found = categories_of(y) if known is not None else None
        if known is None or found is None:
            return
        for place, (theirs, ours) in enumerate(zip(found, known, strict=False)):
            if theirs is not None and ours is not None and theirs != ours:
                column = y.columns[place]
                raise ValueError(
                    "y must have the categories that the guide was trained on, got "
                    f"{_listing(theirs)} where column {column!r} had {_listing(ours)}: take "
                    "y[column].cat.set_categories with the categories of the training frame"
                )

    def _check_labels(self, site: str, y: Any, name: str) -> None:
        known = self._labels.get(site)
        labels = _labels_of(y) if known is not None else None
        # The number of columns is checked elsewhere.
        if known is None or labels is None or len(labels) != len(known):
            return
        if labels == known or _are_positions(labels):
            return
        if Counter(labels) == Counter(known):
            at = next(k for k, (a, b) in enumerate(zip(labels, known, strict=True)) if a != b)
            raise ValueError(
                f"{name} must have its columns in the order that the guide was trained on, got "
                f"{labels[at]!r} where it had {known[at]!r}: take {name}[columns] with the columns "
                "of the training frame"
            )
        if _are_positions(known):
            return
        missing = list((Counter(known) - Counter(labels)).elements())
        others = list((Counter(labels) - Counter(known)).elements())
        raise ValueError(
            f"{name} must have the columns that the guide was trained on, got a frame without "
            f"{_listing(missing)} and with {_listing(others)} in their place: take the columns of "
            f"the training frame, or {name}.to_numpy() to have them taken by position"
        )


def covariate_key(site: str) -> str:
    """The key of the covariates of a block, by the key of its table."""
    return f"{site} covariates"


def _labels_of(y: Any) -> list[Any] | None:
    columns = axis_of(y, "columns")
    return None if columns is None else list(columns)


def _is_plain(labels: list[Any]) -> bool:
    return all(isinstance(x, str | int | float) for x in labels)


def _are_positions(labels: list[Any]) -> bool:
    return labels == list(range(len(labels)))


def _listing(labels: list[Any]) -> str:
    more = len(labels) - MOST_NAMED
    return ", ".join(map(repr, labels[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
