"""A warning of ordered answers that no row has, between cut points that a fit learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from pyro_expfam.families.kinds import Kind, places, take
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.user_warning import warn_user


class _Rows(Protocol):
    """Rows of a table: observations by linear predictor, and their weights or None."""

    @property
    def y(self) -> Tensor: ...

    @property
    def weights(self) -> Tensor | None: ...


@torch.no_grad()
def warn_of_unseen_answers(block: ExpFamPCA, parts: Iterable[_Rows]) -> None:
    """Warns of ordered answers that no row has, if the block learns their cut points.

    Args:
        block: the block.
        parts: the rows of its table, some at a time.
    """
    kinds = [kind for kind in block.family.kinds(block.num_features) if kind.family.has_order]
    if not kinds or not block._learnt_of_family:
        return
    seen = [
        torch.zeros(kind.family.num_levels or 0, kind.width, dtype=torch.bool) for kind in kinds
    ]
    for part in parts:
        for kind, found in zip(kinds, seen, strict=True):
            found |= _answers(kind, part, len(found)).to(found.device)
    unseen = [
        (places(kind.columns, block.num_features)[column], level)
        for kind, found in zip(kinds, seen, strict=True)
        for level, column in (~found).nonzero().tolist()
    ]
    if unseen:
        column, level = unseen[0]
        more = f", and {len(unseen) - 1} more such answers" if len(unseen) > 1 else ""
        warn_user(
            f"no row has the answer {level} in column {column}{more}: its cut points are "
            "what the fit was started from or ran to, and mean nothing. Join it with an "
            'answer beside it, or learn one set for all columns, with cut_points="shared"'
        )


def _answers(kind: Kind, part: _Rows, num_levels: int) -> Tensor:
    """Which answers some rows have in each column of a kind, ``(levels, columns)``."""
    y = take(part.y, kind.predictors)
    present = torch.ones_like(y, dtype=torch.bool)
    if part.weights is not None:
        weights = part.weights
        present = (weights if weights.shape[-1] == 1 else take(weights, kind.predictors)) > 0
    return torch.stack([((y == level) & present).any(-2) for level in range(num_levels)])
