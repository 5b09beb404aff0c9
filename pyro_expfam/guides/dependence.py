"""Which sites of a model depend on the latents of its blocks.

A model is run once with every value marked by the site that it comes from. The marks on the log
density of a site then say which latents it depends on directly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance, is_sample_site
from pyro.ops.provenance import get_provenance
from pyro.poutine import Trace
from torch import Tensor

from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.annotations import is_enumerated, latent_site, observed_site


@dataclass(frozen=True)
class LatentGroup:
    """Latents of blocks that have to be found together, and the sites that depend on them.

    Attributes:
        latents: the names of the sites of the latents, in the order of the model.
        tables: the names of the sites of tables whose linear predictors are linear in the latents
            of one site, and that depend on no other latents.
        terms: the names of all other sites whose log density depends on the latents. The latents
            themselves are among them where their prior is not a known normal distribution.
        enumerated: the names of discrete sites to sum over.
        seen: the blocks that have to look at their tables where the terms are evaluated.
    """

    latents: tuple[str, ...]
    tables: tuple[str, ...]
    terms: tuple[str, ...] = ()
    enumerated: tuple[str, ...] = ()
    seen: tuple[ExpFamPCA, ...] = ()

    @property
    def is_single_table(self) -> bool:
        """Whether the latents of one site depend on one table and nothing else."""
        return len(self.latents) == len(self.tables) == 1 and not self.terms


class Dependences:
    """The groups of latents of a model, for the arguments of a call.

    Which sites a model observes may differ by call, as where an argument may be left out. To look
    takes a run of the model. It is done once for every pattern of arguments that are None, flags,
    or left out.

    Args:
        model: the whole model.
        tables_only: whether to leave out all sites but tables and priors of latents.
    """

    def __init__(self, model: Callable[..., Any], tables_only: bool) -> None:
        self._is_block = isinstance(model, ExpFamPCA) and type(model).forward is ExpFamPCA.forward
        self.tables_only = tables_only
        self._known: dict[Any, list[LatentGroup]] = {}

    def groups(
        self,
        model: Callable[..., Any],
        latents: Collection[str],
        known: Collection[str],
        args: Any,
        kwargs: Any,
    ) -> list[LatentGroup]:
        """The groups of the latents with these names.

        Args:
            model: the whole model.
            latents: the names of the latent sites of its blocks.
            known: the names of other latent sites that the guide has values of.
            args: of the model.
            kwargs: of the model.

        Raises:
            ValueError: if a site that depends on latents is not in the plate of their rows.
        """
        if self._is_block and isinstance(model, ExpFamPCA) and "z" not in model._pyro_samples:
            return [LatentGroup(tuple(latents), (model.site_name("y"),))]
        pattern = (_pattern(args), _pattern(kwargs), frozenset(known))
        if pattern not in self._known:
            found = find_groups(model, latents, known, args, kwargs, self.tables_only)
            self._known[pattern] = found
        return self._known[pattern]


def _pattern(value: Any) -> Any:
    """What of an argument may decide which sites are observed: whether it is there, and flags."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        return tuple(_pattern(part) for part in value)
    if isinstance(value, Mapping):
        return frozenset((str(key), _pattern(part)) for key, part in value.items())
    return "given"


def find_groups(
    model: Callable[..., Any],
    latents: Collection[str],
    known: Collection[str],
    args: Any,
    kwargs: Any,
    tables_only: bool = False,
) -> list[LatentGroup]:
    """The groups of the latents of blocks, by a run of the model.

    Args:
        model: the whole model.
        latents: the names of the latent sites of its blocks.
        known: the names of other latent sites that the guide has values of. An unobserved site
            that it has no value of, such as a label of new rows, says nothing of the latents.
        args: of the model.
        kwargs: of the model.
        tables_only: as for :class:`Dependences`.
    """
    return _run(model, latents, known, args, kwargs).groups(tables_only)


def sites_of_latents(
    model: Callable[..., Any],
    latents: Collection[str],
    known: Collection[str],
    args: Any,
    kwargs: Any,
) -> dict[str, frozenset[str]]:
    """The sites that are neither tables nor normal priors, with the latents that they depend on.

    Args:
        model: as for :func:`find_groups`, as are all others.
        latents: the names of the latent sites of its blocks.
        known: the names of other latent sites that the guide has values of.
        args: of the model.
        kwargs: of the model.
    """
    return _run(model, latents, known, args, kwargs).terms()


def predictions(
    model: Callable[..., Any], latents: Collection[str], args: Any, kwargs: Any
) -> frozenset[str]:
    """Unobserved sites that depend on the latents of blocks, and that no other site depends on.

    A label that is left out is one: the posterior of the latents is the same without it.

    Args:
        model: the whole model.
        latents: the names of the latent sites of its blocks.
        args: of the model.
        kwargs: of the model.
    """
    return _run(model, latents, (), args, kwargs).predictions()


def _run(
    model: Callable[..., Any],
    latents: Collection[str],
    known: Collection[str],
    args: Any,
    kwargs: Any,
) -> _Sites:
    with poutine.block(), torch.random.fork_rng(), pyro.validation_enabled(False):
        with torch.no_grad(), TrackProvenance():
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        return _Sites(trace, latents, known)


class _Sites:
    """The sites of a run with marked values."""

    def __init__(self, trace: Trace, latents: Collection[str], known: Collection[str]) -> None:
        self.sites = {
            name: site
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and is_sample_site(site)
        }
        self.known = frozenset(known)
        # Latents in the order of the model.
        self.latents = [name for name in self.sites if name in latents]
        self.enumerated = frozenset(filter(self._is_enumerated, self.sites))
        unobserved = {name for name, site in self.sites.items() if not site["is_observed"]}
        self.parents = {
            name: get_provenance(_log_prob(site)) & (unobserved - {name})
            for name, site in self.sites.items()
        }
        self.exact_tables = {
            name: latent
            for name in self.sites
            if (latent := self._latent_of_table(name)) is not None
        }

    def groups(self, tables_only: bool) -> list[LatentGroup]:
        """The groups of latents."""
        of_terms = self.terms()
        if tables_only:
            of_terms = {name: found for name, found in of_terms.items() if name in self.latents}
        groups = []
        for members in _components(self.latents, of_terms.values()):
            terms = tuple(name for name in self.sites if of_terms.get(name, frozenset()) & members)
            enumerated = tuple(name for name in self.sites if name in self._enumerated_in(terms))
            tables = tuple(name for name, latent in self.exact_tables.items() if latent in members)
            groups.append(
                LatentGroup(
                    tuple(name for name in self.latents if name in members),
                    tables,
                    tuple(name for name in terms if name not in enumerated),
                    enumerated,
                    self._blocks_of(terms),
                )
            )
        for group in groups:
            self._refuse_coupled_rows(group)
            self._refuse_unknown(group)
        return groups

    def terms(self) -> dict[str, frozenset[str]]:
        """Sites that are neither tables nor normal priors, with the latents that they depend on."""
        found: dict[str, frozenset[str]] = {}
        block_latents = frozenset(self.latents)
        for name, site in self.sites.items():
            depends = self.parents[name] & block_latents
            if name in self.exact_tables:
                continue
            if name in block_latents:
                record = latent_site(site)
                enumerated = self.parents[name] & self.enumerated
                if depends or enumerated or (record is not None and not record.is_normal):
                    found[name] = depends | {name}
            elif depends and (site["is_observed"] or name in self.known | self.enumerated):
                found[name] = depends
        return self._with_enumerated(found)

    def predictions(self) -> frozenset[str]:
        """Unobserved sites that depend on the latents, and that no other site depends on."""
        latents = frozenset(self.latents)
        found: set[str] = set()
        # Children come after their parents.
        for name in reversed(self.sites):
            is_latent = name in latents or self.sites[name]["is_observed"]
            children = {other for other in self.sites if name in self.parents[other]}
            if not is_latent and self._ancestors(name) & latents and children <= found:
                found.add(name)
        return frozenset(found) - self.enumerated

    def _ancestors(self, name: str) -> frozenset[str]:
        direct = self.parents[name]
        return direct.union(*(self._ancestors(parent) for parent in direct))

    def _with_enumerated(self, terms: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """The same, with the sites that share an enumerated site with one of them."""
        for _ in self.sites:
            before = len(terms)
            for name in self.enumerated:
                sharing = [other for other in self.sites if self._shares(other, name)]
                latents = [terms[other] for other in sharing if other in terms]
                if latents:
                    joined = frozenset().union(*latents)
                    for other in sharing:
                        terms[other] = terms.get(other, frozenset()) | joined
            if len(terms) == before:
                break
        return terms

    def _shares(self, name: str, enumerated: str) -> bool:
        return name == enumerated or enumerated in self.parents[name]

    def _enumerated_in(self, terms: Iterable[str]) -> frozenset[str]:
        return frozenset(name for name in terms if name in self.enumerated)

    def _is_enumerated(self, name: str) -> bool:
        return is_enumerated(self.sites[name])

    def _latent_of_table(self, name: str) -> str | None:
        """The site of the latents that a table depends on alone, and linearly; or None."""
        record = observed_site(self.sites[name])
        if record is None or not self.sites[name]["is_observed"]:
            return None
        for latent in self.latents:
            if self.sites[latent]["value"] is not record.z:
                continue
            view = record.view
            own = latent_site(self.sites[latent])
            if view is None and own is not None:
                view = own.problem
            if view is None or own is None:
                return None
            marks = frozenset().union(
                *(get_provenance(x) for key, x in view.fields.items() if key not in _OF_PRIOR)
            )
            is_linear = not marks & (frozenset(self.latents) | self.enumerated)
            return latent if is_linear else None
        return None

    def _blocks_of(self, terms: Iterable[str]) -> tuple[ExpFamPCA, ...]:
        """The blocks whose tables or priors are among the terms."""
        found: list[Any] = []
        for name in terms:
            record = latent_site(self.sites[name]) or observed_site(self.sites[name])
            if record is not None and all(record.block is not block for block in found):
                found.append(record.block)
        return tuple(found)

    def _refuse_unknown(self, group: LatentGroup) -> None:
        """An error unless the guide has values of all latents that a group depends on."""
        if group.is_single_table:
            return
        given = {*self.latents, *self.known, *group.enumerated}
        for name in (*group.latents, *group.tables, *group.terms):
            unknown = sorted(self.parents[name] - given)
            if unknown:
                raise ValueError(
                    f"the guide must know {unknown[0]!r} before the latents of a block, got values "
                    f"of {sorted(self.known)}; in an AutoGuideList, append the guide of "
                    f"{unknown[0]!r} first"
                )

    def _refuse_coupled_rows(self, group: LatentGroup) -> None:
        """An error unless the terms are in the plate of the rows of their latents."""
        rows = _row_frame(self.sites[group.latents[0]])
        for name in (*group.terms, *group.enumerated, *group.latents):
            frame = _row_frame(self.sites[name])
            if frame is None or rows is None or frame.size != rows.size:
                place = (
                    "in no plate of dimension -1"
                    if frame is None
                    else (f"in the plate {frame.name!r} of {frame.size} rows")
                )
                size = "" if rows is None else f" of {rows.size} rows"
                if observed_site(self.sites[name]) is not None and frame is not None:
                    raise ValueError(
                        f"model must have the table {name!r} in a plate{size}, since it depends on "
                        f"the latents {group.latents[0]!r}, got it {place}: pass all latents as z, "
                        "and latent_rows, the row of z that each row of the table belongs to"
                    )
                raise ValueError(
                    f"model must have {name!r}, which depends on the latents "
                    f"{group.latents[0]!r}, in a plate of dimension -1{size}, got it {place}: a "
                    "site that couples rows has no posterior by row. Write it by row, run "
                    "pyro.infer.NUTS, or make the guide with condition_on='table', whose latents "
                    "ignore it"
                )


_OF_PRIOR = ("precision", "loc", "precision_factor")


def _log_prob(site: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = site["fn"].log_prob(site["value"])
    return found


def _row_frame(site: Any) -> Any:
    """The plate of dimension -1 that a site is in, or None."""
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and frame.dim == -1:
            return frame
    return None


def _components(latents: list[str], links: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Latents that are linked, directly or through others."""
    components = [frozenset([name]) for name in latents]
    for link in links:
        joined = [part for part in components if part & link]
        if len(joined) > 1:
            rest = [part for part in components if not part & link]
            components = [*rest, frozenset().union(*joined)]
    # In the order of the model.
    return sorted(components, key=lambda part: min(latents.index(name) for name in part))
