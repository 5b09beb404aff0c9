"""A table whose rows several processes hold: its root, and some of its rows in every process."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.deq.covariates import Covariates
from pyro_expfam.deq.problem import LatentProblem, has_rows
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.guides.group_root import GroupRoot


def check_processes(root: GroupRoot, processes: Processes) -> None:
    """An error unless the rows of several processes can be checked together.

    Raises:
        ValueError: if latents depend on more than one table with a normal prior.
    """
    if processes.count > 1 and (not root.group.is_single_table or root.problem.term is not None):
        raise ValueError(
            "processes must be None where latents depend on several tables or other sites, or have "
            "a prior that is not normal: check some of the rows in one process"
        )


def with_processes(root: GroupRoot, processes: Processes) -> GroupRoot:
    """The root of the rows of this process, which knows of the other processes."""
    return root._replace(
        problem=replace(root.problem, processes=processes),
        tables=tuple(
            table._replace(
                likelihood=replace(table.likelihood, processes=processes),
                alone=None if table.alone is None else replace(table.alone, processes=processes),
            )
            for table in root.tables
        ),
    )


def gathered_rows(
    problem: LatentProblem, z: Tensor, places: Tensor
) -> tuple[LatentProblem, Tensor]:
    """Some rows of a table with their latents, in every process.

    Args:
        problem: the rows of this process.
        z: their latents, ``(n, l)``.
        places: the numbers of the rows in the whole table, in increasing order.
    """
    _, first = problem.count_rows()
    own = places[(places >= first) & (places < first + problem.num_rows)] - first
    part, at = problem.rows(own), z[own]
    processes = problem.processes
    if processes.count == 1:
        return part, at
    names = [name for name, x in part.fields.items() if _is_by_row(name, part)]
    fields = {name: _gathered(processes, _of_each_row(part.fields[name], part)) for name in names}
    whole = part.with_fields(fields)
    covariates = part.covariates
    if covariates is not None:
        offset = covariates.offset
        covariates = Covariates(
            _gathered(processes, covariates.x),
            covariates.C,
            None if offset is None else _gathered(processes, _of_each_row(offset, part)),
        )
    whole = replace(whole, covariates=covariates, stored=None, processes=ONE)
    return whole, _gathered(processes, at)


def _is_by_row(name: str, problem: LatentProblem) -> bool:
    """Whether a field is to be gathered: parameters of most families are the same for all rows."""
    if not has_rows(name):
        return False
    return problem.family.differs_by_row or name in ("y", "offset", "weights", "loc")


def _of_each_row(x: Tensor, problem: LatentProblem) -> Tensor:
    return x.expand(problem.num_rows, x.shape[-1])


def _gathered(processes: Processes, own: Tensor) -> Tensor:
    return torch.cat([x.to(own.device) for x in processes.gather(own.detach().cpu())])
