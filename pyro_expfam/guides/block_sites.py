"""The names of a block's sites in a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.annotations import coefficient_site, latent_site, observed_site


class BlockSites(NamedTuple):
    """The names of the sites of one call of a block.

    A block names its sites. Handlers of the model may change the names: under
    ``pyro.contrib.autoname.scope`` a site ``y`` becomes ``first/y``.

    Attributes:
        block: the block.
        table: the name of the site of its observations.
        coefficients: the names of the sites of loading, intercept and hyperparameters that have a
            prior, by attribute of the block.
        owner: the sites of the block whose latents the table shares; None for a table with latents
            of its own, or with a function of the latents of other blocks.
        has_latents: whether the block samples latents.
    """

    block: ExpFamPCA
    table: str
    coefficients: Mapping[str, str]
    owner: BlockSites | None = None
    has_latents: bool = True

    @property
    def latents(self) -> str:
        """The name of the site of the latents."""
        return self.site_name("z") if self.owner is None else self.owner.latents

    @property
    def labels(self) -> str:
        """The name under which a guide keeps the labels of the table's columns."""
        return self.latents if self.has_latents else self.table

    @property
    def name(self) -> str:
        """The name of the block in the model, such as ``genes``; empty where it is the model."""
        prefix, _, suffix = self.table.rpartition("y")
        return prefix.rstrip("./") + suffix

    def site_name(self, attribute: str) -> str:
        """The name in the model of a site of the block, such as ``loading`` or ``y``."""
        prefix, _, suffix = self.table.rpartition("y")
        return self.coefficients.get(attribute, prefix + attribute + suffix)


def find_blocks(trace: Any) -> list[BlockSites]:
    """The calls of blocks in the trace of a model, in their order."""
    found: list[BlockSites] = []
    coefficients: dict[Any, dict[str, str]] = {}
    latents: dict[str, Any] = {}
    for name, site in trace.nodes.items():
        of_latents, of_table = latent_site(site), observed_site(site)
        coefficient = coefficient_site(site)
        if of_latents is not None:
            latents[name] = site["value"]
        elif coefficient is not None:
            coefficients.setdefault(coefficient.block, {})[coefficient.attribute] = name
        elif of_table is not None:
            # A block that is called again may sample its coefficients again. The last ones before
            # the table belong to this call.
            block: Any = of_table.block
            own = dict(coefficients.get(block, {}))
            sites = BlockSites(block, name, own)
            if sites.latents not in latents:
                shared = [key for key, value in latents.items() if value is of_table.z]
                owners = [other for other in found if other.has_latents and other.latents in shared]
                sites = sites._replace(owner=owners[0] if owners else None, has_latents=False)
            found.append(sites)
    return found
