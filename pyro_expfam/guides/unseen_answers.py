"""Ordered answers that no row has, between cut points that are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.families.kinds import Kind, places, take
from pyro_expfam.joint.table import Sums, Table, TableRows
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_categories import Categories
from pyro_expfam.user_warning import warn_user


class LearntAnswers:
    """The columns of a block with ordered answers and learnt cut points per column.

    Args:
        block: the block.
        labels: the labels of the columns of the table, or None if they are positions.
        categories: the named categories of the columns, or None without any.
    """

    def __init__(
        self,
        block: ExpFamPCA,
        labels: Sequence[Any] | None = None,
        categories: Categories | None = None,
    ) -> None:
        self._num_features = block.num_features
        self._labels = labels
        self._categories = categories
        kinds = block._known_family.kinds(block.num_features)
        self._kinds = [x for x in kinds if x.family.has_order and _learns_by_column(x)]

    def warn_of_unseen_in(self, table: Table) -> None:
        """Warns of answers that no row of a table has."""

        def of_rows(place: slice, rows: TableRows) -> Sums:
            del place
            return self._counts(rows.y, rows.weights)

        if self._kinds:
            self._warn(table.sum(of_rows))

    def warn_of_unseen(self, y: Tensor, weights: Tensor | None) -> None:
        """Warns of answers that no row has, in the shape of linear predictors ``(..., N, d)``."""
        self._warn(self._counts(y, weights))

    def _counts(self, y: Tensor, weights: Tensor | None) -> Sums:
        """How many rows have each answer of each kind of column, ``(..., K, width)``."""
        present = torch.ones_like(y) if weights is None else (weights > 0).expand(y.shape)
        found = []
        for kind in self._kinds:
            answers, there = take(y, kind.predictors), take(present, kind.predictors) > 0
            levels = range(int(kind.family.num_levels or 0))
            found.append(torch.stack([((answers == k) & there).sum(-2) for k in levels], -2))
        return tuple(found)

    def _warn(self, counts: Sums) -> None:
        unseen = [
            (places(kind.columns, self._num_features)[column], level)
            for kind, found in zip(self._kinds, counts, strict=True)
            for *_, level, column in (found == 0).nonzero().tolist()
        ]
        if not unseen:
            return
        column, level = unseen[0]
        more = f", and {len(unseen) - 1} more such answers" if len(unseen) > 1 else ""
        name = column if self._labels is None else repr(self._labels[column])
        levels = self._categories[column] if self._categories is not None else None
        answer = level if levels is None else repr(levels[level])
        warn_user(
            f"no row has the answer {answer} in column {name}{more}: its cut points are "
            "what the fit was started from or ran to, and mean nothing. Join it with an "
            'answer beside it, or learn one set for all columns, with cut_points="shared"'
        )


def _learns_by_column(kind: Kind) -> bool:
    """Whether cut points of some columns are learnt, for each column by itself."""
    return any(start.dim() > 0 for start in kind.family.to_learn(kind.width).values())
