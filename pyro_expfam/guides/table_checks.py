"""What every fit checks of a table beside its entries, whichever way the fit goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.joint import Table, TableInMemory
from pyro_expfam.joint.design_check import check_design
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_labels import labels_of
from pyro_expfam.user_warning import warn_user

MOST_NAMES = 5
"""Columns that a warning names."""


def check_table(
    block: ExpFamPCA, table: Table, y: Any, known: Tensor | None, names: Sequence[str] | None
) -> None:
    """Looks for columns without an entry, and for covariates that determine one another.

    Args:
        block: the block of the table.
        table: the table.
        y: the observations as the user gave them, whose columns may have names.
        known: prior precisions of intercept and coefficients, as in
            :func:`~pyro_expfam.joint.design_check.check_design`; None if priors are no Gaussians.
        names: the names of the covariates, or None to number them.

    Raises:
        ValueError: if flat priors leave coefficients undetermined.

    Warns:
        UserWarning: if nothing but priors is known of a column, or of how coefficients are shared.
    """
    _warn_of_absent_columns(block, table, y)
    if known is not None:
        check_design(table, known, names)


def table_of(block: ExpFamPCA, problem: LatentProblem) -> TableInMemory:
    """The table of a problem in memory, with the entries that the block was called with."""
    family = problem.family
    return TableInMemory(
        family,
        block.num_features,
        problem.b,
        family.decode(problem.y),
        problem.known_offset,
        None if problem.weights is None else problem.of_columns(problem.weights > 0),
        None if problem.weights is None else problem.of_columns(problem.weights),
        None if problem.covariates is None else problem.covariates.x,
        num_covariates=block.num_covariates,
    )


def _warn_of_absent_columns(block: ExpFamPCA, table: Table, y: Any) -> None:
    """Warns of columns that nothing is known of but their priors."""
    of_each = table.processes.gather(set(table.absent_columns) if table.num_own_rows else None)
    absent = sorted(set.intersection(*(x for x in of_each if x is not None)))
    if not absent or table.processes.number:
        return
    names = block.family.column_names
    frame = y if table.named_rows is None else table.named_rows[0]
    labels = labels_of(frame).columns if names is None else names
    which = ", ".join(repr(k if labels is None else str(labels[k])) for k in absent[:MOST_NAMES])
    more = f" and {len(absent) - MOST_NAMES} more" if len(absent) > MOST_NAMES else ""
    warn_user(
        f"mask and weights leave no entry of column {which}{more}: loading and intercept there "
        "come from their priors alone. Leave such columns out",
        UserWarning,
    )
