"""The root of the latents of a group, with every table that they meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import implicit
from pyro_expfam.deq.covariates import Covariates
from pyro_expfam.deq.linear_map import Dense
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.dependence import LatentGroup, sites_of_latents
from pyro_expfam.guides.group_problem import GroupProblem, Reader, group_problem
from pyro_expfam.guides.upstream import UpstreamLatents


class TableRoot(NamedTuple):
    """A table whose latents are at the root of their group.

    Attributes:
        sites: the block of the table, and the names of its sites.
        likelihood: the table as a function of its own latents. Its prior does not count.
        z: the latents of its rows, ``(N, l)``.
        latents: the places of its latents among the latents of the group, or None for a table that
            takes a function of them.
        columns: the places of its linear predictors in the problem of the group, or None for a
            table that is one of the terms.
        alone: the problem of its latents given this table and their prior, and nothing else. What
            depends on other latents is as it is at the root. It is None for a table that takes a
            function of latents, or whose latents have a prior that is not normal and depends on
            other latents.
        y: the observations, as the block was called with them.
        latent_rows: the row of the latents for each row of the table, or None where they are the
            same.
    """

    sites: BlockSites
    likelihood: LatentProblem
    z: Tensor
    latents: slice | None
    columns: slice | None
    alone: LatentProblem | None
    y: Any
    latent_rows: Tensor | None


class GroupRoot(NamedTuple):
    """The latents of a group at their root, at the medians of all other latents.

    Attributes:
        found: the group with its problem.
        problem: the problem of the latents.
        solution: its solution.
        tables: the tables that depend on the latents, in the order of the model.
        left_out: the names of sites that depend on the latents, and that the guide leaves out.
    """

    found: GroupProblem
    problem: LatentProblem
    solution: Solution
    tables: tuple[TableRoot, ...]
    left_out: tuple[str, ...]

    @property
    def group(self) -> LatentGroup:
        """The group."""
        return self.found.group

    @property
    def has_normal_prior(self) -> bool:
        """Whether the prior of the latents is the normal prior of the problem."""
        return not set(self.group.terms) & set(self.group.latents)

    @property
    def has_rotations(self) -> bool:
        """Whether the prior is the same for every rotation of the latents."""
        is_isotropic = self.problem.loc is None and self.problem.precision_factor is None
        return self.has_normal_prior and is_isotropic

    @property
    def other_sites(self) -> tuple[str, ...]:
        """The sites that the latents are conditioned on, beside tables of blocks and priors."""
        known = {*self.group.latents, *(table.sites.table for table in self.tables)}
        return tuple(name for name in self.group.terms if name not in known)

    def with_values(self, values: Mapping[str, Tensor]) -> LatentProblem:
        """The problem with other values of some of the latents that its terms depend on."""
        others = self.found.others
        if others is None or not values:
            return self.problem
        others = replace(others, values={**others.values, **values})
        return replace(self.problem, term=RowTerm(others, self.problem.num_rows))


@torch.no_grad()
def find_group_roots(guide: UpstreamLatents, args: Any, kwargs: Any) -> list[GroupRoot]:
    """The roots of all groups of a model, at the medians of all other latents.

    Args:
        guide: a guide of the model that knows its structure.
        args: of the model.
        kwargs: of the model.
    """
    model = guide._whole_model[0]
    medians = guide._upstream_medians(*args, **kwargs)
    groups = guide._dependences.groups(model, guide._latent_sites, medians, args, kwargs)
    sites = {found.table: found for found in guide._sites.values()}
    plates = guide._existing_plates()
    reader = read_groups(guide, groups, medians, args, kwargs)
    found = [group_problem(group, reader, model, args, kwargs) for group in groups]
    solved = [solve_from_zero(x.problem.distinct(), guide.solver, x.batch_shape) for x in found]
    at_root = reader
    if any(name in reader.wanted for group in groups for name in group.terms):
        # Offsets, loadings or prior means of these blocks may depend on other latents.
        roots = {
            name: part
            for x, solution in zip(found, solved, strict=True)
            for name, part in zip(x.group.latents, solution.value.split(x.sizes, -1), strict=True)
        }
        at_root = Reader(reader.wanted, {**medians, **roots}, plates)
        at_root.run(model, args, kwargs)
    everything: dict[str, frozenset[str]] = {}
    if guide._dependences.tables_only:
        everything = sites_of_latents(model, guide._latent_sites, medians, args, kwargs)
    return [
        GroupRoot(
            x,
            x.problem.distinct(),
            solution,
            tuple(
                _table_root(sites[name], x, solution, reader, at_root, (model, args, kwargs))
                for name in sites
                if name in (*x.group.tables, *x.group.terms)
            ),
            tuple(
                name
                for name, latents in everything.items()
                if name not in guide._latent_sites and latents & set(x.group.latents)
            ),
        )
        for x, solution in zip(found, solved, strict=True)
    ]


def read_groups(
    guide: UpstreamLatents,
    groups: list[LatentGroup],
    values: Mapping[str, Tensor],
    args: Any,
    kwargs: Any,
) -> Reader:
    """A run of the model that has read the tables and priors of groups.

    Args:
        guide: a guide of the model that knows its structure.
        groups: the groups.
        values: values by name of latent sites that are not a block's.
        args: of the model.
        kwargs: of the model.
    """
    of_blocks = {found.table for found in guide._sites.values()}
    names = {
        name
        for group in groups
        for name in (*group.latents, *group.tables, *(of_blocks & set(group.terms)))
    }
    reader = Reader(names, values, guide._existing_plates())
    reader.run(guide._whole_model[0], args, kwargs)
    labels = {found.table: found.labels for found in guide._sites.values()}
    for name, table in reader.tables.items():
        guide.check_columns(labels[name], table.y)
        guide.check_covariates(labels[name], table.arguments[-1])
    return reader


def table_alone(
    name: str, group: LatentGroup, reader: Reader, model: Any, args: Any, kwargs: Any
) -> GroupProblem:
    """The problem of the latents of a group given one table and their prior, and nothing else.

    Args:
        name: the name of the site of the table.
        group: the group.
        reader: a run of the model that has read the group.
        model: the model.
        args: of the model.
        kwargs: of the model.
    """
    terms = tuple(x for x in group.terms if x in group.latents or x == name)
    tables = tuple(x for x in group.tables if x == name)
    enumerated = group.enumerated if terms else ()
    alone = replace(group, tables=tables, terms=terms, enumerated=enumerated)
    return group_problem(alone, reader, model, args, kwargs)


def solve_from_zero(problem: LatentProblem, solver: Solver, batch_shape: torch.Size) -> Solution:
    """The root of a problem from latents zero.

    Args:
        problem: the problem.
        solver: the solver.
        batch_shape: batch dimensions that the problem may lack.
    """
    batch = torch.broadcast_shapes(problem.batch_shape, batch_shape)
    zero = torch.zeros((), dtype=problem.map.dtype, device=problem.map.device)
    start = zero.expand(*batch, problem.num_rows, problem.latent_dim)
    return implicit.solve(problem, solver, start)


def _table_root(
    sites: BlockSites,
    found: GroupProblem,
    solution: Solution,
    reader: Reader,
    at_root: Reader,
    run: tuple[Any, Any, Any],
) -> TableRoot:
    group, joint = found.group, found.problem.distinct()
    table = at_root.tables[sites.table]
    own = at_root.latents.get(table.latents or "")
    latents = None if own is None else _place(table.latents, group, found.sizes)
    columns = found.places.get(sites.table)
    z = table.z if latents is None else solution.value[..., latents]
    if columns is None:
        likelihood = own.site.problem if own is not None and table.view is None else table.view
        assert likelihood is not None
        likelihood = likelihood.distinct()
    else:
        assert latents is not None
        own_columns = joint.predictors(_family_of(table, reader), columns)
        own_columns = replace(own_columns, term=None, covariates=_covariates_of(table, reader))
        likelihood = _of_latents(own_columns, latents)
    alone = None
    if columns is not None and table.latents not in group.terms:
        alone = likelihood
    elif own is not None and own.site.is_normal and own.site.problem is not None:
        alone = _with_prior_of(likelihood, own.site.problem.distinct())
    elif group.latents == (table.latents,) and columns is not None:
        alone = replace(likelihood, term=table_alone("", group, reader, *run).problem.term)
    return TableRoot(sites, likelihood, z, latents, columns, alone, table.y, table.latent_rows)


def _family_of(table: Any, reader: Reader) -> Any:
    return _problem_of(table, reader).family


def _covariates_of(table: Any, reader: Reader) -> Covariates | None:
    return _problem_of(table, reader).covariates


def _problem_of(table: Any, reader: Reader) -> LatentProblem:
    """The problem of a table as its own block has made it."""
    problem = table.view
    if problem is None:
        problem = reader.latents[table.latents].site.problem
    assert problem is not None
    found: LatentProblem = problem
    return found


def _place(name: str | None, group: LatentGroup, sizes: tuple[int, ...]) -> slice:
    """The places of the latents of a site among the latents of its group."""
    place = group.latents.index(str(name))
    begin = sum(sizes[:place])
    return slice(begin, begin + sizes[place])


def _of_latents(problem: LatentProblem, latents: slice) -> LatentProblem:
    """A problem as a function of some of its latents, of which alone its table is a function.

    The latents of different sites are independent under their prior.
    """
    if latents == slice(0, problem.latent_dim):
        return problem
    factor, loc = problem.precision_factor, problem.loc
    return replace(
        problem,
        map=Dense(problem.map.loading[..., latents]),
        loc=None if loc is None else loc[..., latents],
        precision_factor=None if factor is None else factor[..., latents, latents],
    )


def _with_prior_of(problem: LatentProblem, other: LatentProblem) -> LatentProblem:
    return replace(
        problem, precision=other.precision, loc=other.loc, precision_factor=other.precision_factor
    )
