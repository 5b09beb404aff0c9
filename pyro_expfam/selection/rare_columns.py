"""Rare columns: with so few informative entries, the prior decides about held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.selection.held_out_parts import without_entries
from pyro_expfam.user_warning import warn_user

FEW_ENTRIES = 3
"""A column with fewer informative entries is rare."""

MUCH = 0.5
"""Rare columns may carry at most this part of a difference between numbers of latents."""

SMALLEST = 2.0
"""A share of rare columns below this number of nats does not matter."""


def rare_columns(problem: LatentProblem) -> Tensor:
    """Which columns of a table have fewer than three informative entries, ``(features,)``.

    An entry is not informative if it is missing, or if it lies at the same edge of the possible
    values as most entries of its column. In a column of counts the informative entries are usually
    those above zero. In a column of categories they are all but the entries at the level that most
    entries have.
    """
    present, lower, upper = problem.b.new_zeros(3, len(problem.b))
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        edge = rows.family.predictor(rows.y)
        there = torch.ones_like(edge, dtype=torch.bool)
        if rows.weights is not None:
            there = (rows.weights > 0).expand_as(edge)
        present += there.sum(0)
        lower += (there & edge.isneginf()).sum(0)
        upper += (there & edge.isposinf()).sum(0)
    present, lower, upper = problem.sum(present, lower, upper)
    column = problem.column_of_predictor
    # The indicator of a level is at its lower edge unless the entry has this level.
    are_levels = (column.bincount(minlength=problem.num_columns) > 1)[column]
    at_edge = torch.where(are_levels, present - lower, torch.maximum(lower, upper))
    most = at_edge.new_zeros(problem.num_columns).scatter_reduce(0, column, at_edge, "amax")
    found = problem.of_columns(present) - most < FEW_ENTRIES
    for kind in problem.kinds:
        if kind.family.is_coupled and not kind.family.has_levels:
            # A composition has no entries without some of its parts.
            found[kind.columns] = False
    return found


def without_columns(problem: LatentProblem, columns: Tensor) -> LatentProblem:
    """The problem without the entries of some columns of the table, booleans ``(features,)``."""
    return without_entries(problem, columns)


def warn_of_rare_columns(
    dims: Sequence[int], held_out: Sequence[Tensor], common: Sequence[Tensor], rare: Tensor
) -> None:
    """Warns if rare columns carry much of the difference between numbers of latents.

    Args:
        dims: numbers of latents.
        held_out: the log evidence of every row under each number, ``(N,)``.
        common: the same without the entries of columns that are rare in the training rows.
        rare: which columns are rare in the training rows of some fold, ``(features,)``.
    """
    totals = torch.stack([by_row.sum() for by_row in held_out])
    without = torch.stack([by_row.sum() for by_row in common])
    best = int(totals.argmax())
    difference = totals[best] - totals
    share = (difference - (without[best] - without)).abs()
    decides = (share > MUCH * difference) & (share > SMALLEST)
    if not bool(decides.any()):
        return
    columns = rare.nonzero().flatten().tolist()
    others = ", ".join(f"{dims[k]} ({float(share[k]):.3g})" for k in decides.nonzero().flatten())
    named = ", ".join(map(str, columns[:10])) + (", ..." if len(columns) > 10 else "")
    warn_user(
        f"rare columns carry much of the difference in held-out evidence between {dims[best]} "
        f"latents and {others} (nats of it): {len(columns)} columns have fewer than {FEW_ENTRIES} "
        f"informative entries outside a fold, {named}. The prior of the intercept decides there. "
        f"Without these columns {dims[int(without.argmax())]} would be best. Leave them out of the "
        "comparison",
        UserWarning,
    )
