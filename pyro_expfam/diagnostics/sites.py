"""The sites of a Pyro model as named arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.likelihood import entry_distribution

SAMPLE_DIMS = ("chain", "draw")


def is_sampled(site: Any) -> bool:
    """Whether a site of a trace is a sample site, and not the indices of a plate."""
    return site["type"] == "sample" and not site_is_subsample(site)


def is_deterministic(site: Any) -> bool:
    """Whether a site comes from :func:`pyro.deterministic`."""
    return site["type"] == "sample" and bool(site["infer"].get("_deterministic"))


def is_observation(site: Any) -> bool:
    """Whether a site is observed data, and not a deterministic value or a factor."""
    return (
        is_sampled(site)
        and site["is_observed"]
        and not is_deterministic(site)
        and not site["infer"].get("is_auxiliary")
    )


def is_latent(site: Any) -> bool:
    """Whether a site is a latent variable."""
    return is_sampled(site) and not site["is_observed"] and not is_deterministic(site)


@dataclass(frozen=True)
class Site:
    """The description of a site of the model, before any draw.

    Attributes:
        name: the name of the site.
        shape: the shape of one draw.
        dims: a name for each dimension; None for a dimension along which nothing varies, as between
            two plates that are not next to each other.
        event_ndim: how many of the dimensions belong to the event.
        entry_ndim: how many dimensions of the event have entries of their own in the likelihood.
        present: whether each entry of an observed site is present, and not masked.
        is_observed: whether the site is observed data.
    """

    name: str
    shape: torch.Size
    dims: tuple[str | None, ...]
    event_ndim: int
    entry_ndim: int
    present: np.ndarray
    is_observed: bool

    @property
    def named_dims(self) -> tuple[str, ...]:
        """The names of the named dimensions."""
        return _named(self.dims)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each named dimension."""
        return self.sizes_of(len(self.dims))

    def sizes_of(self, ndim: int) -> dict[str, int]:
        """The size of each named dimension among the first ``ndim``."""
        pairs = zip(self.dims[:ndim], self.shape[:ndim], strict=True)
        return {dim: size for dim, size in pairs if dim is not None}

    def draws(self, values: np.ndarray) -> Variable:
        """Draws ``(S, *shape)`` of the site as a variable."""
        sizes = tuple(self.sizes.values())
        return Variable(SAMPLE_DIMS + self.named_dims, values.reshape(1, len(values), *sizes))

    def with_dims(self, dims: Sequence[str]) -> Site:
        """The site with other names of its named dimensions."""
        names = iter(check_dims(self.name, dims, len(self.named_dims)))
        return replace(self, dims=tuple(None if dim is None else next(names) for dim in self.dims))

    def renamed(self, taken: Iterable[str]) -> Site:
        """The site with its own name as a prefix of dimensions whose names are taken."""
        taken = set(taken)
        return self.with_dims(
            [f"{self.name}_{dim}" if dim in taken else dim for dim in self.named_dims]
        )


def plate_dims_of(sites: Iterable[Any]) -> dict[str, str]:
    """The names of plate dimensions that differ from the name of their plate.

    A site names the dimensions of its plates by a mapping ``plate_dims`` in its ``infer``.
    """
    return {
        plate: dim
        for site in sites
        for plate, dim in (site["infer"].get("plate_dims") or {}).items()
    }


def levels_of(sites: Iterable[Any]) -> dict[str, tuple[str, list[int]]]:
    """Dimensions of levels of categories, with the dimension of their columns and their numbers.

    A site names them by a mapping ``level_dims`` in its ``infer``.
    """
    return {
        dim: levels
        for site in sites
        for dim, levels in (site["infer"].get("level_dims") or {}).items()
    }


def level_counts(sites: Iterable[Any]) -> dict[str, list[int]]:
    """The levels of each column of sites of categories and of their coefficients, by name.

    A column of numbers has one. A site says the numbers by ``levels`` in its ``infer``.
    """
    return {site["name"]: site["infer"]["levels"] for site in sites if "levels" in site["infer"]}


def columns_of(sites: Iterable[Any]) -> dict[str, list[Any]]:
    """The names of the columns of tables whose model knows them, by site.

    A site gives them by ``columns`` in its ``infer``.
    """
    return {site["name"]: site["infer"]["columns"] for site in sites if "columns" in site["infer"]}


def names_of(sites: Iterable[Any]) -> dict[str, Any]:
    """The names along dimensions that no table has, such as covariates, by dimension.

    A site gives them by ``names`` in its ``infer``.
    """
    return {
        dim: names for site in sites for dim, names in (site["infer"].get("names") or {}).items()
    }


def argument_dims_of(
    sites: Iterable[Any], arguments: Mapping[str, np.ndarray]
) -> dict[str, Sequence[str]]:
    """The names of the dimensions of arguments of the model, such as covariates, by argument.

    A site gives them by ``argument_dims`` in its ``infer``.
    """
    return {
        name: dims
        for site in sites
        for name, dims in (site["infer"].get("argument_dims") or {}).items()
        if name in arguments and arguments[name].ndim == len(dims)
    }


def kinds_of(sites: Iterable[Any]) -> dict[str, tuple[str, list[str]]]:
    """The kinds of the columns of mixed tables, by the dimension of the columns.

    They come with the name of the coordinate that holds them. A site gives them by ``kinds`` in its
    ``infer``.
    """
    return {
        dim: kinds for site in sites for dim, kinds in (site["infer"].get("kinds") or {}).items()
    }


def describe(site: Any, plate_dims: Mapping[str, str]) -> Site:
    """The description of a site of a trace, with these names for the dimensions of plates."""
    name, distribution = site["name"], site["fn"]
    shape = value_of(site).shape
    batch_ndim = len(shape) - distribution.event_dim
    if is_deterministic(site):
        batch_ndim = _deterministic_batch_ndim(site)
    dims = _dims(site, shape, batch_ndim, plate_dims)
    entry_ndim, present = 0, np.array(True)
    if is_observation(site):
        entries = entry_distribution(site)
        entry_ndim = entries.entry_ndim
        present = entries.present.expand(shape[: batch_ndim + entry_ndim]).numpy()
    return Site(
        name, shape, dims, len(shape) - batch_ndim, entry_ndim, present, is_observation(site)
    )


def value_of(site: Any) -> Tensor:
    """The value of a site; an observation is expanded to the shape of its distribution."""
    value, distribution = site["value"], site["fn"]
    if not is_observation(site):
        return value
    shape = distribution.batch_shape + distribution.event_shape
    return value.expand(torch.broadcast_shapes(value.shape, shape))


def distinct_dims(sites: Sequence[Site]) -> list[Site]:
    """The sites, renamed so that each dimension name means one thing.

    A name that stands for two sizes, or that is also the name of a site, is prefixed with the name
    of its site.
    """
    sizes: dict[str, int] = {}
    taken = {*SAMPLE_DIMS, *(site.name for site in sites)}
    for site in sites:
        for dim, size in site.sizes.items():
            if sizes.setdefault(dim, size) != size:
                taken.add(dim)
    return [site.renamed(taken) for site in sites]


def check_dims(name: str, dims: Sequence[str], ndim: int) -> Sequence[str]:
    """Raises an error unless ``dims`` has ``ndim`` different names."""
    if isinstance(dims, str) or len(dims) != ndim or len(set(dims)) != ndim:
        raise ValueError(f"dims of {name!r} must be {ndim} different names, got {dims!r}")
    return dims


def plates_of(sites: Iterable[Any], plate_dims: Mapping[str, str]) -> dict[str, int]:
    """The size of every plate around the sites, by the name of its dimension."""
    return {
        plate_dims.get(frame.name, frame.name): int(frame.size)
        for site in sites
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }


def _dims(
    site: Any, shape: torch.Size, batch_ndim: int, plate_dims: Mapping[str, str]
) -> tuple[str | None, ...]:
    plates = {
        frame.dim: plate_dims.get(frame.name, frame.name)
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }
    names: list[str | None] = [plates.get(index - batch_ndim) for index in range(batch_ndim)]
    varies = [name is not None or size != 1 for name, size in zip(names, shape, strict=False)]
    event_ndim = len(shape) - batch_ndim
    names += site["infer"].get("event_dims") or [None] * event_ndim
    if len(names) != len(shape):
        raise ValueError(
            f"infer['event_dims'] of site {site['name']!r} must be {event_ndim} names, "
            f"got {site['infer']['event_dims']!r}"
        )
    varies += [True] * event_ndim
    return _with_defaults(site["name"], names, varies)


def _with_defaults(
    site: str, names: Sequence[str | None], varies: Sequence[bool]
) -> tuple[str | None, ...]:
    """Adds names in ArviZ's style for dimensions that vary and have no name."""
    dims: list[str | None] = []
    for name, varying in zip(names, varies, strict=True):
        position = len(_named(dims))
        dims.append((name or f"{site}_dim_{position}") if varying else None)
    check_dims(site, _named(dims), sum(varies))
    return tuple(dims)


def _deterministic_batch_ndim(site: Any) -> int:
    """The number of batch dimensions of a deterministic value.

    Its distribution counts all dimensions as event dimensions by default. The number is then the
    largest that fits the plates.
    """
    shape = site["value"].shape
    event_dim = site["fn"].event_dim
    if event_dim < len(shape):
        return len(shape) - event_dim
    plates = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    if not plates:
        return 0
    for batch_ndim in range(len(shape), 0, -1):
        batch_shape = shape[:batch_ndim]
        if all(
            -frame.dim <= batch_ndim and batch_shape[frame.dim] == frame.size for frame in plates
        ):
            return batch_ndim
    return 0


def _named(dims: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dim for dim in dims if dim is not None)
