"""The log densities of tables with the latents of their rows integrated out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pyro_expfam.evidence import evidence_at_root
from pyro_expfam.guides.group_problem import GroupProblem, group_problem
from pyro_expfam.guides.group_root import read_groups, solve_from_zero, table_alone
from pyro_expfam.guides.upstream import UpstreamLatents


class Marginal(NamedTuple):
    """A log density of rows with their latents integrated out.

    Attributes:
        site: the name of the site whose rows they are.
        log_density: the log densities, ``(..., N)``.
    """

    site: str
    log_density: Tensor


def find_marginals(
    guide: UpstreamLatents, values: Mapping[str, Tensor], args: Any, kwargs: Any
) -> dict[str, Marginal]:
    """The log densities of tables and of groups, as :meth:`ModelRun.marginals` says."""
    model = guide._whole_model[0]
    known = {name: x for name, x in values.items() if name not in guide._latent_sites}
    groups = guide._dependences.groups(model, guide._latent_sites, known, args, kwargs)
    groups = [group for group in groups if not group.is_single_table]
    if not groups:
        return {}
    reader = read_groups(guide, groups, known, args, kwargs)
    blocks = {sites.table: sites for sites in guide._sites.values()}
    found: dict[str, Marginal] = {}
    for group in groups:
        for name in blocks:
            if name not in (*group.tables, *group.terms):
                continue
            alone = table_alone(name, group, reader, model, args, kwargs)
            rows = reader.tables[name].latent_rows
            density = _evidence(guide, alone)
            density = density if rows is None else density[..., rows]
            found[f"{name}_marginal"] = Marginal(name, density)
        whole = _evidence(guide, group_problem(group, reader, model, args, kwargs))
        owner = next(x for x in blocks.values() if x.latents == group.latents[0])
        found[owner.site_name("marginal")] = Marginal(group.latents[0], whole)
    return found


def _evidence(guide: UpstreamLatents, found: GroupProblem) -> Tensor:
    """The evidence of every row to second order."""
    problem = found.problem.distinct()
    z = solve_from_zero(problem, guide.solver, found.batch_shape).value
    return evidence_at_root(problem, z, order=2)
