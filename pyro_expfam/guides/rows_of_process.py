"""The rows of one of several processes, which may be none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.processes import Processes
from pyro_expfam.guides.no_rows import check_no_rows, has_no_rows
from pyro_expfam.guides.structure_rows import for_structure, one_row
from pyro_expfam.models import ExpFamPCA


def some_rows(block: ExpFamPCA, table: tuple[Any, ...], processes: Processes) -> tuple[Any, ...]:
    """The table of a process, or a possible row in the place of none.

    Args:
        block: the block of the table.
        table: observations, offset, mask, weights and covariates.
        processes: the processes that hold the rows.
    """
    if processes.count == 1 or not has_no_rows(table[0]):
        return table
    row = row_in_place_of_none(block, *table)
    return (*row, *(None for _ in table[len(row) :]))


def row_in_place_of_none(block: ExpFamPCA, *table: Any) -> tuple[Any, ...]:
    """The arguments of a block with one possible row, in the place of a table without rows."""
    row = one_row(block)
    check_no_rows(block, *table, like=row)
    return for_structure(block, row)


def problem_of_process(
    problem: LatentProblem, table: tuple[Any, ...], processes: Processes
) -> LatentProblem:
    """The problem of the rows of a process, from its table or from the row in the place of none."""
    if processes.count > 1 and has_no_rows(table[0]):
        problem = problem.rows(slice(0, 0))
    return replace(problem, processes=processes)
