"""Rows that a model is run on for its structure alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_expfam.families import Family
from pyro_expfam.joint import Objective
from pyro_expfam.models import ExpFamPCA


def rows_for_structure(problem: Objective) -> Tensor:
    """As few observations as show the structure of the model.

    One row is enough, unless the family differs by row.
    """
    table = problem.table
    num_rows = table.num_own_rows if table.family.differs_by_row else 1
    return _possible(table.family, num_rows, table.num_features, table.like)


def for_structure(block: ExpFamPCA, rows: Tensor) -> tuple[Any, ...]:
    """The arguments of a block that show the structure of its model, from some observations."""
    if not block.num_covariates:
        return (rows,)
    return rows, None, None, None, rows.new_zeros(len(rows), block.num_covariates)


def one_row(block: ExpFamPCA) -> Tensor:
    """One row of observations of a block whose family is the same for all rows."""
    like: Any = block.latent_precision
    return _possible(block.family, 1, block.num_features, like.detach())


def _possible(family: Family, num_rows: int, num_features: int, like: Tensor) -> Tensor:
    """Possible observations of a family, in the dtype of ``like``."""
    return family.possible_rows(num_features).to(like).expand(num_rows, num_features)
