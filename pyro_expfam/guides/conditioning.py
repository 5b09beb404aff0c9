"""Observations that depend on a block's latents, and that the guide ignores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance, is_sample_site
from pyro.ops.provenance import get_provenance
from pyro.poutine import Trace

from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.annotations import latent_site, observed_site
from pyro_expfam.user_warning import warn_user


class ConditioningWarning(UserWarning):
    """The model observes sites that depend on a block's latents, and the guide ignores them."""


class IgnoredObservations:
    """Watches the calls of a guide for observed sites that depend on latents and are ignored.

    Which sites a model observes may differ by call, as where an argument may be left out. To look
    takes a run of the model. It is done once for every pattern of arguments that are None, flags,
    or left out.

    Args:
        model: the whole model.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self._is_block = isinstance(model, ExpFamPCA) and type(model).forward is ExpFamPCA.forward
        self._seen: set[Any] = set()
        self._named: set[tuple[str, str]] = set()

    def warn(
        self, model: Callable[..., Any], latents: Iterable[str], args: Any, kwargs: Any
    ) -> None:
        """Warns of observed sites, other than a block's table, that depend on its latents.

        A site is named once.

        Args:
            model: the whole model.
            latents: the names of the latent sites of its blocks.
            args: of the model.
            kwargs: of the model.

        Warns:
            ConditioningWarning: if there are any.
        """
        if self._is_block:
            return
        pattern = (_pattern(args), _pattern(kwargs))
        if pattern in self._seen:
            return
        ignored = ignored_observations(model, latents, args, kwargs)
        self._seen.add(pattern)
        found = {(latent, site) for latent, sites in ignored.items() for site in sites}
        if found <= self._named:
            return
        self._named |= found
        _warn(ignored)


def _pattern(value: Any) -> Any:
    """What of an argument may decide which sites are observed: whether it is there, and flags."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        return tuple(_pattern(part) for part in value)
    if isinstance(value, Mapping):
        return frozenset((str(key), _pattern(part)) for key, part in value.items())
    return "given"


def _warn(ignored: dict[str, list[str]]) -> None:
    parts = [
        f"{', '.join(map(repr, sites))} on {latent!r}" for latent, sites in sorted(ignored.items())
    ]
    warn_user(
        "the guide finds the latents of a block from the block's own table y alone, and the model "
        f"observes other sites that depend on them: {'; '.join(parts)}. The latents, their "
        "posterior and LaplaceEvidence ignore what these sites say of them; loadings and all else "
        "are trained on all sites. For latents that see every site run pyro.infer.NUTS on the "
        "model, or make what is observed there columns of the block's table. If the latents should "
        "be found from the table alone, as by an encoder, silence this "
        "pyro_expfam.guides.ConditioningWarning",
        ConditioningWarning,
    )


def ignored_observations(
    model: Callable[..., Any], latents: Iterable[str], args: Any, kwargs: Any
) -> dict[str, list[str]]:
    """Observed sites, other than a block's table, that depend on its latents, by their name."""
    with poutine.block(), torch.random.fork_rng(), pyro.validation_enabled(False):
        with torch.no_grad(), TrackProvenance():
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        parents = _parents(trace)
    tables = _tables(trace)
    found: dict[str, list[str]] = {}
    for name in parents:
        if not trace.nodes[name]["is_observed"]:
            continue
        ancestors = _ancestors(name, parents)
        for latent in latents:
            if latent in ancestors and tables.get(latent) != name:
                found.setdefault(latent, []).append(name)
    return found


def _parents(trace: Trace) -> dict[str, frozenset[str]]:
    """The latent sites that the density of each site depends on directly, by name of the site."""
    sites = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and is_sample_site(site)
    }
    latent = {name for name, site in sites.items() if not site["is_observed"]}
    parents = {}
    for name, site in sites.items():
        law: Any = site["fn"]
        with torch.no_grad():
            provenance = get_provenance(law.log_prob(site["value"]))
        parents[name] = frozenset(provenance & latent - {name})
    return parents


def _ancestors(name: str, parents: dict[str, frozenset[str]]) -> set[str]:
    """The latent sites that a site depends on, directly or through other latent sites."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = parents.get(ahead.pop(), frozenset()) - found
        found |= new
        ahead.extend(new)
    return found


def _tables(trace: Trace) -> dict[str, str]:
    """The site of the observations of each block, by name of the site of its latents."""
    tables: dict[str, str] = {}
    latents: dict[Any, str] = {}
    for name, site in trace.nodes.items():
        latent, observed = latent_site(site), observed_site(site)
        if latent is not None:
            latents[latent.block] = name
        elif observed is not None:
            tables[latents[observed.block]] = name
    return tables
