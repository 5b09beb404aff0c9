"""What is held out together: rows, or single entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.selection.folds import fold_numbers, folds

HoldOut = Literal["rows", "entries"]
"""What a comparison holds out."""


class Part(NamedTuple):
    """A part of a table that is held out from a fit.

    Attributes:
        training: what the coefficients are fitted to.
        with_held_out: what they are scored on.
        given: what of it they have been given, or None.
        rows: the rows that are scored.
    """

    training: LatentProblem
    with_held_out: LatentProblem
    given: LatentProblem | None
    rows: Tensor


def check_hold_out(hold_out: str) -> HoldOut:
    """A checked name of what is held out.

    Raises:
        ValueError: if it is another name.
    """
    if hold_out not in get_args(HoldOut):
        raise ValueError(f"hold_out must be 'rows' or 'entries', got {hold_out!r}")
    return cast("HoldOut", hold_out)


def parts(problem: LatentProblem, hold_out: HoldOut, num_folds: int) -> Iterator[Part]:
    """The parts of a table, the same in every comparison."""
    if hold_out == "rows":
        num_rows, first = problem.count_rows()
        for both in folds(num_rows, num_folds, problem.b.device):
            train, test = (rows_among(rows, first, problem.num_rows) for rows in both)
            yield Part(problem.rows(train), problem.rows(test), None, test)
        return
    every = torch.arange(problem.num_rows, device=problem.b.device)
    for held in entry_folds(problem, num_folds):
        given = without_entries(problem, held)
        yield Part(given, problem, given, every)


def rows_among(rows: Tensor, first: int, count: int) -> Tensor:
    """Which of some rows a process holds, counted from its first row.

    Args:
        rows: numbers of rows of the whole table.
        first: the number of the first row of the process.
        count: how many rows it holds.
    """
    return rows[(rows >= first) & (rows < first + count)] - first


def entry_folds(problem: LatentProblem, num_folds: int) -> Iterator[Tensor]:
    """The entries that are held out together, booleans ``(N, columns)``.

    Raises:
        ValueError: if single entries of the family cannot be missing.
    """
    for kind in problem.kinds:
        if kind.family.is_coupled and not kind.family.has_levels:
            raise ValueError(
                f"hold_out must be 'rows' for {kind.family}, whose parts cannot be missing one by "
                "one, got 'entries'"
            )
    num_rows, first = problem.count_rows()
    size = num_rows * problem.num_columns
    number = fold_numbers(size, num_folds, problem.b.device).view(num_rows, -1)
    number = number[first : first + problem.num_rows]
    for fold in range(num_folds):
        yield number == fold


def without_entries(problem: LatentProblem, held: Tensor) -> LatentProblem:
    """The problem without some entries of the table, booleans that broadcast to its shape."""
    kept = (~problem.of_predictors(held)).to(problem.b).expand_as(problem.y)
    return replace(problem, weights=problem.weighted(kept), stored=None)
