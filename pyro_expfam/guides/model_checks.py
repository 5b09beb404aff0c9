"""The checks of all tables of a model before a fit, as of the table of a single block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_expfam.guides.group_root import GroupRoot, TableRoot
from pyro_expfam.guides.table_checks import check_table, table_of
from pyro_expfam.guides.table_objective import free_parameters, learns_for_columns
from pyro_expfam.joint.learnt_parameters import check_that_observations_vary
from pyro_expfam.models import ExpFamPCA


@torch.no_grad()
def check_tables(groups: Sequence[GroupRoot]) -> None:
    """Checks the tables of a model as a fit of a single block checks its own.

    Args:
        groups: the latents of the model with their tables.

    Raises:
        ValueError: if a column is constant whose scale, shape, precision or dispersion is learnt,
            or flat priors leave coefficients of covariates undetermined.

    Warns:
        UserWarning: if nothing but priors is known of a column, or of how coefficients are shared.
    """
    for group in groups:
        for table in group.tables:
            if not table.likelihood.batch_shape:
                _check(table)


def _check(found: TableRoot) -> None:
    block = found.sites.block
    table = table_of(block, found.likelihood)
    check_table(block, table, found.y, _known_precision(block), None)
    learnt = [x for x in free_parameters(block) if learns_for_columns(block, x.name)]
    try:
        check_that_observations_vary(table, learnt)
    except ValueError as error:
        if not found.sites.name:
            raise
        raise ValueError(f"{found.sites.name}: {error}") from None


def _known_precision(block: ExpFamPCA) -> Tensor | None:
    """The prior precisions of intercept and coefficients of covariates, if they are Gaussian."""
    try:
        return block.coefficient_precision()[..., block.latent_dim :]
    except ValueError:
        return None
