"""The problem of the latents of a group: what a run of the model says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.deq.side_by_side import side_by_side
from pyro_expfam.guides.dependence import LatentGroup
from pyro_expfam.guides.other_sites import KnownSites, OtherSites
from pyro_expfam.models.annotations import LatentSite, latent_site, observed_site
from pyro_expfam.runtime.known_tables import likelihoods_unwanted


class _AllRead(Exception):
    """Ends the run of a model whose blocks have all been read."""


class ReadLatents(NamedTuple):
    """A latent site of a block in a run of its model.

    Attributes:
        site: the record of the block.
        value: the latents in the run, ``(..., N, l)``.
        frames: the names of the plates that the site is in.
        scale: the scale of its log density.
    """

    site: LatentSite
    value: Tensor
    frames: frozenset[str]
    scale: Any


class ReadTable(NamedTuple):
    """A table in a run of its model.

    Attributes:
        latents: the name of the site of its latents, or None where they are no site's.
        view: its problem, if another block has the latents; or None.
        block: the block of the table.
        arguments: observations, offset, mask, weights and covariates.
        scale: the scale of its log density.
        z: the latents of its rows, ``(..., N, l)``.
        latent_rows: the row of ``z`` for each row of the table, or None where they are the same.
    """

    latents: str | None
    view: LatentProblem | None
    block: Any
    arguments: tuple[Any, ...]
    scale: Any
    z: Tensor
    latent_rows: Tensor | None

    @property
    def y(self) -> Any:
        """The observations, as the block was called with them."""
        return self.arguments[0]


class Reader(KnownSites):
    """A run of a model that reads the problems of its blocks.

    Latents of blocks are zero in the run.

    Args:
        names: the names of the sites of latents, and of the tables.
        values: values by name of latent sites that are not a block's.
        plates: plates that exist already, by name.
    """

    def __init__(
        self, names: set[str], values: Mapping[str, Tensor], plates: Mapping[str, Any]
    ) -> None:
        super().__init__(values, plates)
        self.wanted = names
        self.latents: dict[str, ReadLatents] = {}
        self.tables: dict[str, ReadTable] = {}

    def run(self, model: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Runs the model until all sites have been read."""
        with contextlib.suppress(_AllRead), self, likelihoods_unwanted():
            model(*args, **kwargs)

    def _latent(self, msg: Any) -> None:
        site = latent_site(msg)
        if site is not None:
            law = msg["fn"]
            if site.problem is None:
                raise ValueError(
                    f"y must be given for the guide to find the latents {msg['name']!r}, got None"
                )
            shape = law.batch_shape + law.event_shape
            like = site.problem.b
            msg["value"] = torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        site, table = latent_site(msg), observed_site(msg)
        if site is not None:
            frames = frozenset(f.name for f in msg["cond_indep_stack"] if f.vectorized)
            self.latents[name] = ReadLatents(site, msg["value"], frames, msg["scale"])
        elif table is not None and name in self.wanted:
            latents = [k for k, read in self.latents.items() if read.value is table.z]
            assert table.z is not None
            self.tables[name] = ReadTable(
                latents[0] if latents else None,
                table.view,
                table.block,
                table.arguments,
                msg["scale"],
                table.z,
                table.latent_rows,
            )
        if self.wanted <= self.latents.keys() | self.tables.keys():
            raise _AllRead


class GroupProblem(NamedTuple):
    """The problem of the latents of a group.

    Attributes:
        group: the group.
        problem: the problem, with the latents of all sites side by side.
        sizes: the number of latents per row of each site.
        batch_shape: the batch shape of the sites without their rows.
        checked: the blocks whose observations have been checked, with their arguments.
        site: the record of the first site of latents.
        others: the log density of the terms, or None if there are none.
        places: the places of the linear predictors of each table in the problem, by the name of
            the table.
    """

    group: LatentGroup
    problem: LatentProblem
    sizes: tuple[int, ...]
    batch_shape: torch.Size
    checked: tuple[tuple[Any, tuple[Any, ...]], ...]
    site: LatentSite
    others: OtherSites | None
    places: Mapping[str, slice]


def group_problem(
    group: LatentGroup, reader: Reader, model: Callable[..., Any], args: Any, kwargs: Any
) -> GroupProblem:
    """The problem of a group from a run that has read its blocks."""
    read = [reader.latents[name] for name in group.latents]
    tables = [reader.tables[name] for name in group.tables]
    sizes = tuple(x.value.shape[-1] for x in read)
    problems = [
        _of_site(name, x, tables, exact_prior=name not in group.terms)
        for name, x in zip(group.latents, read, strict=True)
    ]
    problem = problems[0] if len(problems) == 1 else _joined(problems, sizes)
    first, others = read[0], None
    if group.terms:
        others = OtherSites(
            model,
            args,
            kwargs,
            group,
            sizes,
            reader.values,
            reader.plates,
            first.frames,
            max(first.value.dim() - 1, len(problem.batch_shape) + 1),
            first.scale,
            first.value.dtype,
        )
        problem = replace(problem, term=RowTerm(others, problem.num_rows))
    owners = [(x.site.block, x.site.arguments) for x in read]
    views = [(x.block, x.arguments) for x in tables if x.view is not None]
    shape = first.value.shape[:-2]
    places = _places(group, reader, problems)
    return GroupProblem(group, problem, sizes, shape, (*owners, *views), first.site, others, places)


def _places(group: LatentGroup, reader: Reader, problems: list[LatentProblem]) -> dict[str, slice]:
    """The places of the linear predictors of each table, in the order of the problem.

    The columns of the block that has the latents come first, then the columns of other blocks.
    """
    places, begin = {}, 0
    for name, problem in zip(group.latents, problems, strict=True):
        own = {key: reader.tables[key] for key in group.tables}
        own = {key: table for key, table in own.items() if table.latents == name}
        views = {key: table.view for key, table in own.items() if table.view is not None}
        end = begin + problem.num_features
        for key, view in reversed(views.items()):
            places[key] = slice(end - view.num_features, end)
            end -= view.num_features
        for key in own.keys() - views.keys():
            places[key] = slice(begin, end)
        begin += problem.num_features
    return places


def _of_site(
    name: str, read: ReadLatents, tables: list[ReadTable], exact_prior: bool
) -> LatentProblem:
    """The problem of the latents of one site, of its tables and its prior."""
    problem = read.site.problem
    assert problem is not None
    own = [table for table in tables if table.latents == name]
    if not exact_prior:
        problem = replace(
            problem, precision=torch.ones_like(problem.precision), loc=None, precision_factor=None
        )
    views = [_scaled(x.view, x.scale / read.scale) for x in own if x.view is not None]
    if all(table.view is not None for table in own):
        # The block's own table is among the terms.
        problem = replace(problem, weights=torch.zeros_like(problem.b[..., :1]).unsqueeze(-2))
    return side_by_side(problem, views)


def _scaled(view: LatentProblem, scale: Any) -> LatentProblem:
    """A table whose log density counts as often as its plate says."""
    if isinstance(scale, float | int) and scale == 1.0:
        return view
    weights = torch.as_tensor(scale, dtype=view.b.dtype, device=view.b.device)
    weights = weights.reshape(1, 1) if view.weights is None else view.weights * weights
    return replace(view, weights=weights)


def _joined(problems: list[LatentProblem], sizes: tuple[int, ...]) -> LatentProblem:
    """One problem of the latents of several sites, side by side."""
    wide = [_widened(problem, sizes, place) for place, problem in enumerate(problems)]
    batch = torch.broadcast_shapes(*(problem.batch_shape for problem in problems))
    total = sum(sizes)
    like = problems[0].b
    factor = like.new_zeros(*batch, total, total)
    locs = []
    begin = 0
    for problem, size in zip(problems, sizes, strict=True):
        end = begin + size
        own = problem.precision.sqrt()[..., None, None] * (
            torch.eye(size, dtype=like.dtype, device=like.device)
            if problem.precision_factor is None
            else problem.precision_factor
        )
        pad = torch.nn.functional.pad(own, (begin, total - end, begin, total - end))
        factor = factor + pad
        locs.append(problem.loc if problem.loc is not None else like.new_zeros(1, size))
        begin = end
    joined = side_by_side(wide[0], wide[1:])
    return replace(
        joined,
        precision=torch.ones_like(factor[..., 0, 0]),
        precision_factor=factor,
        loc=_side_by_side(locs),
    )


def _widened(problem: LatentProblem, sizes: tuple[int, ...], place: int) -> LatentProblem:
    """A table as a function of the latents of all sites."""
    before, after = sum(sizes[:place]), sum(sizes[place + 1 :])
    wide = problem.map.of_more_latents(before, after)
    return replace(problem, map=wide, loc=None, precision_factor=None)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    batch = torch.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return torch.cat([x.expand(*batch, x.shape[-1]) for x in parts], -1)
