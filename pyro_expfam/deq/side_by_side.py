"""Tables that share their latents, as one problem with their columns side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.deq.linear_map import stacked
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Columns, Family


def side_by_side(problem: LatentProblem, others: Sequence[LatentProblem]) -> LatentProblem:
    """One problem of the latents of several tables, with the prior of the first.

    Args:
        problem: the problem of the latents given one table.
        others: problems with the same rows and latents; their priors do not count.
    """
    if not others:
        return problem
    tables = [problem, *others]
    batch_shape = torch.broadcast_shapes(*(table.batch_shape for table in tables))
    return replace(
        problem,
        family=_joined_family(tables),
        y=_joined([table.y for table in tables], batch_shape),
        map=stacked([table.map for table in tables], batch_shape),
        b=_joined([table.b.unsqueeze(-2) for table in tables], batch_shape).squeeze(-2),
        offset=_joined_entries([table.offset for table in tables], tables, batch_shape, 0.0),
        weights=_joined_entries([table.weights for table in tables], tables, batch_shape, 1.0),
        covariates=None,
    )


def _joined_family(tables: Sequence[LatentProblem]) -> Family:
    """The law of all columns: the family of the tables where it is the same and without tensors."""
    first = tables[0].family
    is_one = all(table.family == first for table in tables)
    # Compositions side by side are not one composition.
    levels = first.levels_among(sum(table.num_features for table in tables))
    if not first.parameters and is_one and levels == tables[0].levels:
        return first
    return Columns.side_by_side((table.family, table.num_columns) for table in tables)


def _joined(parts: Sequence[Tensor], batch_shape: torch.Size) -> Tensor:
    """Matrices side by side, with the same batch dimensions."""
    return torch.cat([part.expand(*batch_shape, *part.shape[-2:]) for part in parts], -1)


def _joined_entries(
    entries: Sequence[Tensor | None],
    tables: Sequence[LatentProblem],
    batch_shape: torch.Size,
    default: float,
) -> Tensor | None:
    """Offsets or weights side by side, with a default where a table has none."""
    if all(x is None for x in entries):
        return None
    num_rows = max(x.shape[-2] for x in entries if x is not None)
    parts = []
    for x, table in zip(entries, tables, strict=True):
        if x is None:
            x = torch.full((), default, dtype=table.map.dtype, device=table.map.device)
        batch = x.shape[:-2] if x.dim() > 2 else ()
        parts.append(x.expand(*batch, num_rows, table.num_features))
    return _joined(parts, batch_shape)
